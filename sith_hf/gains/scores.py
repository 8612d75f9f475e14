"""``Scores``: a judge's score of every explained pole, 1 to 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.files import Layout, library_versions, read_artifact, require, write_artifact, write_whole
from sith_hf.gains.score_csv import explanations_sha256, read_score_csv, score_csv_text
from sith_hf.hub import find_artifact

LOWEST_SCORE, HIGHEST_SCORE = 1.0, 5.0

SCORES_LAYOUT = Layout(
    format="sith-hf/scores",
    version=1,
    filename="scores.safetensors",
    # The file has no NaN: the score of a pole without one is 0.
    tensors={"layers": (torch.int64, "L"), "score": (torch.float32, "L H R poles")},
    data={"poles": list, "topic": str, "judge": str, "record": dict, "decomposition_sha256": str, "libraries": dict},
    repo_type="dataset",
)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of explained poles on a topic: 1 not about it, 3 mainly about it, 5 about nothing else.

    Attributes:
        layers: the L layer numbers of the decomposition.
        poles: the poles of the decomposition, ``("+", "-")`` or ``("+",)``.
        value: ``[L, H, R, poles]`` float32, from 1 to 5; NaN for a pole without a usable answer.
        topic: the topic, in words.
        judge: who scored, and how, in words.
        record: the judge's settings and counts as plain data; equal answers give equal records.
        decomposition_sha256: the fingerprint of the explanations that were judged
            (:func:`sith_hf.gains.score_csv.explanations_sha256`).
        run: counts of this run alone, such as the number of questions asked and of cached answers. Not saved, so that
            equal answers give equal files.

    Raises:
        InputError: a score that is neither from 1 to 5 nor NaN, or a shape that does not fit layers and poles.
    """

    layers: tuple[int, ...]
    poles: tuple[str, ...]
    value: Tensor
    topic: str
    judge: str
    record: Mapping[str, Any]
    decomposition_sha256: str
    run: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        shape = tuple(self.value.shape)
        if len(shape) != 4 or (shape[0], shape[3]) != (len(self.layers), len(self.poles)):
            raise InputError(
                f"scores of {len(self.layers)} layers must have shape [{len(self.layers)}, H, R, {len(self.poles)}]; "
                f"got {list(shape)}"
            )
        if not bool((torch.isnan(self.value) | ((self.value >= LOWEST_SCORE) & (self.value <= HIGHEST_SCORE))).all()):
            raise InputError("a score must be a number from 1 to 5, or NaN for a pole without one")

    def __repr__(self) -> str:
        return (
            f"Scores({sanitize(self.topic)!r} by {sanitize(self.judge)}: {self.scored} of {self.value.numel()} poles, "
            f"{int((self.value >= 3).sum())} of them at least 3)"
        )

    @property
    def scored(self) -> int:
        """The number of poles with a score."""
        return int((~torch.isnan(self.value)).sum())

    @property
    def missing(self) -> int:
        """The number of poles without a score."""
        return self.value.numel() - self.scored

    def check(self, decomposition: Decomposition) -> None:
        """Raise InputError unless these scores are of the explanations of ``decomposition``."""
        if self.decomposition_sha256 != explanations_sha256(decomposition):
            raise InputError(
                f"the scores for {sanitize(self.topic)!r} belong to other explanations than those of "
                f"{decomposition!r}: judge this decomposition, or use the one that was judged"
            )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``scores.safetensors`` into ``folder``. Raises OutputError."""
        data = {name: getattr(self, name) for name in ("topic", "judge", "decomposition_sha256")}
        data |= {"poles": list(self.poles), "record": dict(self.record), "libraries": library_versions()}
        tensors = {"layers": torch.tensor(self.layers), "score": torch.nan_to_num(self.value, nan=0.0)}
        return write_artifact(folder, SCORES_LAYOUT, tensors, data)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None, token: str | None = None) -> Scores:
        """Read what :meth:`save_pretrained` wrote, from a folder, a file or a Hub repository.

        Raises:
            ArtifactError: the file is missing, damaged or of another version.
        """
        path = find_artifact(name_or_path, SCORES_LAYOUT, revision, token)
        tensors, data = read_artifact(path, SCORES_LAYOUT)
        score, poles = tensors["score"], tuple(data["poles"])
        require(poles in [("+", "-"), ("+",)], path, "the poles are neither + nor +-")
        require(score.shape[3] == len(poles), path, "the scores do not fit the poles")
        inside = bool(((score == 0) | ((score >= LOWEST_SCORE) & (score <= HIGHEST_SCORE))).all())
        require(inside, path, "a score is outside 1 to 5")
        return cls(
            layers=tuple(tensors["layers"].tolist()),
            poles=poles,
            value=torch.where(score == 0, torch.nan, score),
            **{name: data[name] for name in ("topic", "judge", "record", "decomposition_sha256")},
        )

    def to_csv(self, path: str | Path, decomposition: Decomposition) -> Path:
        """Write the scores and their explanations as a score CSV (:mod:`sith_hf.gains.score_csv`).

        Raises:
            InputError: the scores are of other explanations.
            OutputError: the file could not be written.
        """
        self.check(decomposition)
        write_whole(Path(path), score_csv_text(decomposition, self.value).encode("utf-8-sig"))
        return Path(path)

    @classmethod
    def from_csv(
        cls, path: str | Path, decomposition: Decomposition, *, topic: str, judge: str | None = None
    ) -> Scores:
        """Read a score CSV that a person filled in, or that :meth:`to_csv` wrote.

        Args:
            path, decomposition: as for :func:`sith_hf.gains.score_csv.read_score_csv`.
            topic: the topic of the scores, in words.
            judge: who filled it in; the file's name when None.

        Raises:
            InputError: as for :func:`sith_hf.gains.score_csv.read_score_csv`.
        """
        value, record = read_score_csv(path, decomposition)
        judge = judge or f"the score CSV {Path(path).name}"
        return cls.of(decomposition, value, topic=topic, judge=judge, record={"by": "file", **record})

    @classmethod
    def of(
        cls,
        decomposition: Decomposition,
        value: Tensor,
        *,
        topic: str,
        judge: str,
        record: Mapping[str, Any],
        run: Mapping[str, int] | None = None,
    ) -> Scores:
        """Make scores of the explanations of ``decomposition``; the other arguments are fields."""
        return cls(
            layers=decomposition.layers,
            poles=decomposition.poles,
            value=value.to(torch.float32),
            topic=topic,
            judge=judge,
            record=MappingProxyType(dict(record)),
            decomposition_sha256=explanations_sha256(decomposition),
            run=MappingProxyType(dict(run or {})),
        )
