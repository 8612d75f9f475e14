"""The judge that was asked already: scores in a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains import SCORES_LAYOUT, Scores


@dataclass(frozen=True)
class SheetJudge:
    """Scores as a person filled them in, or as another judge left them.

    Attributes:
        path: a CSV sheet (:mod:`sith_hf.gains.score_csv`), ``scores.safetensors``, or a folder that holds that.
        topic: what the scores say, in words. A safetensors file says that itself; a sheet's is this.
        sha256: what the file must be, where that is known.
    """

    path: Path
    topic: str = "the topic of the sheet"
    sha256: str | None = None

    def score(self, decomposition: Decomposition, *, progress: bool = False) -> Scores:
        """The scores of the file (see :class:`sith_hf.judges.Judge`).

        Raises:
            InputError: no such file, another one than ``sha256`` says, or scores of other explanations.
        """
        path = Path(self.path)
        try:
            path = path / SCORES_LAYOUT.filename if path.is_dir() else path
            if not path.is_file():
                raise InputError(f"{path}: no such file; give a CSV sheet or the safetensors file of scores")
            if self.sha256 is not None:
                found = hashlib.sha256(path.read_bytes()).hexdigest()
                if found != self.sha256:
                    raise InputError(f"{path} has the sha256 {found}, not {self.sha256}: it is another file")
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: the scores could not be read ({error})") from None
        if path.suffix != ".safetensors":
            return Scores.from_csv(path, decomposition, topic=self.topic)
        scores = Scores.from_pretrained(path)
        scores.check(decomposition)
        return scores
