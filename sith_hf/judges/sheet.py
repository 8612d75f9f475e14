"""The judge that reads scores from a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sith_hf.core.reading import read_input
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains import SCORES_LAYOUT, Scores

MAX_BYTES = 200_000_000


@dataclass(frozen=True)
class SheetJudge:
    """A judge that reads scores which a person filled in or another judge saved.

    Attributes:
        path: a score CSV (:mod:`sith_hf.gains.score_csv`), ``scores.safetensors``, or the folder of the latter.
        topic: the topic of a score CSV, in words. A safetensors file has its own.
        sha256: the expected sha256 of the file; any when None.
    """

    path: Path
    topic: str = "the topic of the score CSV"
    sha256: str | None = None

    def score(self, decomposition: Decomposition, *, progress: bool = False) -> Scores:
        """Return the scores in the file (see :class:`sith_hf.judges.Judge`).

        Raises:
            InputError: a file that cannot be read or has another sha256, or scores of other explanations.
        """
        path = Path(self.path)
        path = path / SCORES_LAYOUT.filename if path.is_dir() else path
        raw = read_input(path, "the scores", "name a score CSV or scores.safetensors", MAX_BYTES)
        if self.sha256 is not None and (found := hashlib.sha256(raw).hexdigest()) != self.sha256:
            raise InputError(f"{path} is another file: its sha256 is {found}, expected {self.sha256}")
        if path.suffix != ".safetensors":
            return Scores.from_csv(path, decomposition, topic=self.topic)
        scores = Scores.from_pretrained(path)
        scores.check(decomposition)
        return scores
