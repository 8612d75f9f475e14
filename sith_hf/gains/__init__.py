"""From explanations and scores to gains; drift, the drift budget and the impact of an edit; baselines.

It imports ``decomposition`` and everything below. Rules that need a text tower take an ``embed`` function.
"""

from sith_hf.gains.baselines import random_vectors, with_baselines
from sith_hf.gains.by_concepts import SHARE_THRESHOLD, by_concepts, by_name, share_of
from sith_hf.gains.by_relevance import by_relevance, class_task, level_offset, task_relevance
from sith_hf.gains.by_score import Keep, by_threshold, three_way, topic_shares
from sith_hf.gains.by_word import FELT, WORD_LEVEL, WordCarriers, WordChoice, by_word, word_carriers
from sith_hf.gains.drift import drift_shares
from sith_hf.gains.drift_budget import budgeted
from sith_hf.gains.gains import (
    Direction,
    Evidence,
    Gains,
    Selection,
    VectorKey,
    check_gain,
    direction_of,
    reversed_directions,
)
from sith_hf.gains.impact import MOST_DRIFT, MOST_ENERGY, Impact, impact_of
from sith_hf.gains.report import gain_rows, gain_table
from sith_hf.gains.score_csv import score_csv_text
from sith_hf.gains.scores import HIGHEST_SCORE, LOWEST_SCORE, SCORES_LAYOUT, Scores

__all__ = [
    "Direction",
    "Evidence",
    "FELT",
    "Gains",
    "HIGHEST_SCORE",
    "Impact",
    "Keep",
    "LOWEST_SCORE",
    "MOST_DRIFT",
    "MOST_ENERGY",
    "SCORES_LAYOUT",
    "SHARE_THRESHOLD",
    "Scores",
    "Selection",
    "VectorKey",
    "WORD_LEVEL",
    "WordCarriers",
    "WordChoice",
    "budgeted",
    "by_concepts",
    "by_name",
    "by_relevance",
    "by_threshold",
    "by_word",
    "check_gain",
    "class_task",
    "direction_of",
    "drift_shares",
    "gain_rows",
    "gain_table",
    "impact_of",
    "level_offset",
    "random_vectors",
    "reversed_directions",
    "score_csv_text",
    "share_of",
    "task_relevance",
    "three_way",
    "topic_shares",
    "with_baselines",
    "word_carriers",
]
