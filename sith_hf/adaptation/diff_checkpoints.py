"""``diff_checkpoints``: which tensors of two checkpoints differ, and whether a recorded edit explains it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sith_hf.checkpoint import SITH, verify
from sith_hf.core.short_repr import short_repr
from sith_hf.edits import EDIT_SPEC_LAYOUT
from sith_hf.errors import InputError
from sith_hf.towers import Checkpoint


@short_repr
@dataclass(frozen=True)
class TensorDifference:
    """A tensor that differs.

    Attributes:
        name: its canonical name.
        relative: ||B - A|| / ||A||; None for tensors of other shapes, or for a tensor of zeros in A.
        largest: the largest difference of an entry; None for tensors of other shapes.
        note: what else differs: its shape or dtype; empty if only values do.
    """

    name: str
    relative: float | None
    largest: float | None
    note: str = ""


@short_repr
@dataclass(frozen=True)
class CheckpointDiff:
    """The differences of two checkpoints.

    Attributes:
        differences: the tensors of both that differ, by name.
        only_first, only_second: the names of tensors of one only.
        identical: the number of tensors with equal bytes.
        explained: whether an edit that one of them records explains every difference of tensors and files; None if
            neither records an edit.
        edited: which of them records that edit, ``"A"`` or ``"B"``; None without one.
        problems: what the edit does not explain.
    """

    differences: tuple[TensorDifference, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    identical: int
    explained: bool | None
    edited: str | None
    problems: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every tensor has equal bytes."""
        return not (self.differences or self.only_first or self.only_second)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "same": self.same}

    def rows(self, top: int) -> tuple[list[str], list[list[object]]]:
        """Return columns and rows for :func:`sith_hf.core.tables.table`: tensors that differ, most changed first."""
        ordered = sorted(self.differences, key=lambda item: -(math.inf if item.relative is None else item.relative))
        rows: list[list[object]] = [
            [item.name, "-" if item.relative is None else f"{item.relative:.3g}", item.note] for item in ordered[:top]
        ]
        return ["tensor", "||B - A|| / ||A||", "note"], rows


def diff_checkpoints(first: Path, second: Path, *, progress: bool = False) -> CheckpointDiff:
    """Compare two checkpoint folders tensor by tensor, one tensor in memory at a time.

    Args:
        first, second: the folders.
        progress: show a bar on stderr.

    Raises:
        InputError, ArtifactError: a checkpoint or its recorded edit is missing or damaged.
    """
    ours, theirs = Checkpoint.read(first), Checkpoint.read(second)
    names = sorted(ours.where.keys() & theirs.where.keys())
    found = [
        item
        for name in tqdm(names, desc="comparing", unit="tensor", disable=not progress)
        if (item := _difference(ours, theirs, name)) is not None
    ]
    only = [tuple(sorted(a.where.keys() - b.where.keys())) for a, b in ((ours, theirs), (theirs, ours))]
    explained, edited, problems = _explained(first, second) if found or any(only) else (None, None, ())
    return CheckpointDiff(tuple(found), only[0], only[1], len(names) - len(found), explained, edited, problems)


def _difference(ours: Checkpoint, theirs: Checkpoint, name: str) -> TensorDifference | None:
    here, there = ours.where[name], theirs.where[name]
    a, b = here.entries[name], there.entries[name]
    if a.shape != b.shape:
        return TensorDifference(name, None, None, f"shape {list(a.shape)} and {list(b.shape)}")
    if a.dtype == b.dtype and all(x == y for x, y in zip_longest(here.chunks(name), there.chunks(name))):
        return None
    one, other = ours.tensor(name).double(), theirs.tensor(name).double()
    norm, delta = float(one.norm()), other - one
    relative = float(delta.norm()) / norm if norm else None
    largest = float(delta.abs().max()) if delta.numel() else 0.0
    note = "" if a.dtype == b.dtype else f"dtype {a.dtype} and {b.dtype}"
    finite = relative is None or math.isfinite(relative)
    return TensorDifference(name, relative if finite else None, largest if math.isfinite(largest) else None, note)


def _explained(first: Path, second: Path) -> tuple[bool | None, str | None, tuple[str, ...]]:
    """Return whether the edit that one checkpoint records makes it of the other, which one, and what is left."""
    tried: list[tuple[bool, str, tuple[str, ...]]] = []
    for edited, base, name in ((second, first, "B"), (first, second, "A")):
        if (edited / SITH / EDIT_SPEC_LAYOUT.filename).is_file():
            try:
                result = verify(edited, base)
            except InputError as error:  # the edit is of other weights
                tried.append((False, name, (str(error),)))
            else:
                tried.append((result.ok, name, result.problems))
    return next((item for item in tried if item[0]), tried[0] if tried else (None, None, ()))
