"""Judges, which score how much an explained pole is about a topic: by embeddings, by a language model, or from a file.

All follow the protocol ``Judge``. The package imports ``gains``, ``decomposition`` and everything below.
"""

from sith_hf.judges.embeddings import EmbeddingJudge
from sith_hf.judges.judge import (
    EmbeddingJudgeSettings,
    Judge,
    JudgeSettings,
    LanguageModelJudgeSettings,
    SheetJudgeSettings,
    check_judge_server,
    make_judge,
)
from sith_hf.judges.language_model import LanguageModelJudge
from sith_hf.judges.sheet import SheetJudge

__all__ = [
    "EmbeddingJudge",
    "EmbeddingJudgeSettings",
    "Judge",
    "JudgeSettings",
    "LanguageModelJudge",
    "LanguageModelJudgeSettings",
    "SheetJudge",
    "SheetJudgeSettings",
    "check_judge_server",
    "make_judge",
]
