"""From explanations and scores to gains, one rule a file; drift and the drift budget; baselines.

It imports ``decomposition`` and what that imports. What needs a text tower takes an ``embed`` function.
"""

from sith_hf.gains.baselines import with_baselines
from sith_hf.gains.by_relevance import by_relevance, class_task, level_offset, relevance
from sith_hf.gains.by_score import by_threshold, three_way, topic_shares
from sith_hf.gains.drift import drift_shares
from sith_hf.gains.drift_budget import budgeted
from sith_hf.gains.gains import SHARE_THRESHOLD, Gains, by_concepts, by_name, check_gain, share_of
from sith_hf.gains.score_csv import sheet_text
from sith_hf.gains.scores import HIGHEST_SCORE, LOWEST_SCORE, SCORES_LAYOUT, Scores

__all__ = [
    "Gains",
    "HIGHEST_SCORE",
    "LOWEST_SCORE",
    "SCORES_LAYOUT",
    "SHARE_THRESHOLD",
    "Scores",
    "budgeted",
    "by_concepts",
    "by_name",
    "by_relevance",
    "by_threshold",
    "check_gain",
    "class_task",
    "drift_shares",
    "level_offset",
    "relevance",
    "share_of",
    "sheet_text",
    "three_way",
    "topic_shares",
    "with_baselines",
]
