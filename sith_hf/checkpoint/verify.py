"""Compare an edited checkpoint with its base and its spec, tensor by tensor and file by file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.checkpoint.write import EditedTensors, check_base, locate, other_files, other_weights
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError
from sith_hf.hub import CARD, is_generated
from sith_hf.towers import CHUNK, CONFIGS, Checkpoint, published


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        edited: how many tensors the spec changes, and are as it says.
        identical: how many tensors have the base's bytes.
        files: how many other files have the base's bytes.
        deviation: the largest distance of an edited entry from what the spec says, in units of the dtype's rounding
            at that entry; 0 where the bytes are equal.
        problems: one sentence for each thing that is not as it should be.
    """

    edited: int
    identical: int
    files: int
    deviation: float
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """As plain data; JSON has no infinity, so a deviation without a bound is None."""
        deviation = self.deviation if math.isfinite(self.deviation) else None
        return {**vars(self), "deviation": deviation, "problems": list(self.problems), "ok": self.ok}


def verify(
    edited: str | Path, base: str | Path | None = None, spec: EditSpec | None = None, *, progress: bool = False
) -> Verification:
    """Check that ``edited`` is ``base`` with ``spec`` written in, and nothing else.

    Args:
        edited: folder or Hub id of the edited checkpoint.
        base: folder or Hub id of its base; the one that the spec names when None.
        spec: the edit; the one in the folder's ``sith/`` when None.
        progress: show a bar on stderr.

    Returns:
        the findings: differences are reported, not raised.

    Raises:
        InputError, ArtifactError: something is missing or damaged.
        BaseMismatch: ``base`` is not the base of the spec.
    """
    theirs = Checkpoint.read(locate(edited))
    spec = spec or EditSpec.from_pretrained(theirs.folder)
    try:
        ours = Checkpoint.read(locate(base or spec.base.name, None if base else spec.base.revision))
    except InputError as error:
        if base is not None:
            raise
        raise InputError(f"{error}. The edit names {spec.base.name} as its base; say where that is (--base)") from None
    check_base(ours, spec)
    expected = EditedTensors(ours, spec)
    problems: list[str] = []
    for key in sorted(set(ours.where) ^ set(theirs.where)):
        problems.append(f"tensor {key} is only in the {'base' if key in ours.where else 'edited checkpoint'}")
    identical = changed = 0
    worst = 0.0
    for key in tqdm(sorted(set(ours.where) & set(theirs.where)), desc="verifying", unit="tensor", disable=not progress):
        here, there = ours.where[key].entries[key], theirs.where[key].entries[key]
        if (here.dtype, here.shape) != (there.dtype, there.shape):
            problems.append(f"tensor {key} is {there.dtype} {list(there.shape)}, not {here.dtype} {list(here.shape)}")
        elif key in expected:
            distance = roundings_apart(theirs.tensor(key), expected[key])
            worst = max(worst, distance)
            # The same sum on another machine may be rounded the other way, and no further.
            if distance > 1:
                problems.append(f"tensor {key} is not the base with the edit: {distance:.3g} roundings away")
            else:
                changed += 1
        elif all(a == b for a, b in zip_longest(ours.where[key].chunks(key), theirs.where[key].chunks(key))):
            identical += 1
        else:
            problems.append(f"tensor {key} differs from the base, and the edit does not touch it")
    same, complaints = _compare_files(ours, theirs)
    return Verification(changed, identical, same, worst, (*problems, *complaints))


def roundings_apart(found: Tensor, expected: Tensor) -> float:
    """The largest distance of entries in units of the rounding of their dtype; infinity for NaN."""
    if torch.equal(found, expected):
        return 0.0
    info = torch.finfo(expected.dtype)
    wide = expected.double()
    unit = (wide.abs() * info.eps).clamp(min=info.tiny * info.eps)
    distance = ((found.double() - wide).abs() / unit).nan_to_num(nan=float("inf"))
    return float(distance.max())


def _compare_files(ours: Checkpoint, theirs: Checkpoint) -> tuple[int, list[str]]:
    here, there = other_files(ours), other_files(theirs)
    for name in _of_the_hub(there):
        here.pop(name, None)
        there.pop(name, None)
    # Hidden files are not published.
    here = {n: path for n, path in here.items() if n in there or not any(p.startswith(".") for p in n.split("/"))}
    problems = [f"file {name} is not in the base" for name in there if name not in here]
    problems += [f"file {name} holds weights in another format, without the edit" for name in other_weights(theirs)]
    problems += [f"file {name} of the base is missing" for name in here if name not in there]
    shared = [name for name in here if name in there]
    different = [name for name in shared if not _same(name, here[name], there[name])]
    problems += [f"file {name} differs from the base's" for name in different]
    return len(shared) - len(different), problems


def _of_the_hub(files: Mapping[str, Path]) -> tuple[str, ...]:
    """What publishing changes beside the weights: the Hub's own file, and the card where it is ours."""
    card = files.get(CARD)
    ours = card is not None and is_generated(card.read_text(encoding="utf-8", errors="replace"))
    return (".gitattributes", CARD) if ours else (".gitattributes",)


def _same(name: str, ours: Path, theirs: Path) -> bool:
    return _same_bytes(ours, theirs) or (name in CONFIGS and published(ours) == theirs.read_bytes())


def _same_bytes(one: Path, other: Path) -> bool:
    with one.open("rb") as a, other.open("rb") as b:
        while True:
            left, right = a.read(CHUNK), b.read(CHUNK)
            if left != right:
                return False
            if not left:
                return True
