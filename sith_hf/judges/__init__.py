"""Judges: who says how much an explained pole is about a topic, 1 to 5.

Three of them behind one protocol: by embeddings, which needs nothing else; by a language model; by a file that a
person filled in.
"""

from sith_hf.judges.embeddings import EmbeddingJudge
from sith_hf.judges.factory import make_judge
from sith_hf.judges.language_model import LanguageModelJudge
from sith_hf.judges.protocol import Judge
from sith_hf.judges.settings import JudgeSettings
from sith_hf.judges.sheet import SheetJudge

__all__ = ["EmbeddingJudge", "Judge", "JudgeSettings", "LanguageModelJudge", "SheetJudge", "make_judge"]
