"""``diff_specs``: where two edit specs differ, and the size of the difference in the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.short_repr import short_repr
from sith_hf.edits import AnySpec, EditSpec
from sith_hf.errors import BaseMismatch

# Directions of one vector in two specs differ by rounding only, unless it was decomposed otherwise.
_SAME = 1e-3


@short_repr
@dataclass(frozen=True)
class GainDifference:
    """A vector whose gain differs.

    Attributes:
        tower, layer, head, vector: the vector.
        first, second: its gain in either spec; None where a spec does not name it.
        same_direction: whether both mean the same direction; True for a vector of one spec only.
    """

    tower: str
    layer: int
    head: int
    vector: int
    first: float | None
    second: float | None
    same_direction: bool = True


@short_repr
@dataclass(frozen=True)
class SpecDiff:
    """The differences of two edit specs.

    Attributes:
        differences: the vectors whose gain differs, by tower, layer, head, vector.
        same: the number of vectors with one gain in both.
        first_norm, second_norm: the Frobenius norm of what each spec adds to output projections and biases.
        norm: the norm of the difference of the two sums; 0 for equal edits.
    """

    differences: tuple[GainDifference, ...]
    same: int
    first_norm: float
    second_norm: float
    norm: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self), "differences": [asdict(item) for item in self.differences]}

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return columns and rows for :func:`sith_hf.core.tables.table`."""
        columns = ["tower", "layer", "head", "vector", "gain in A", "gain in B", "note"]
        return columns, [
            [d.tower, d.layer, d.head, d.vector, _shown(d.first), _shown(d.second), _note(d)] for d in self.differences
        ]


def diff_specs(first: AnySpec, second: AnySpec) -> SpecDiff:
    """Compare two edits of one base, tower by tower and vector by vector; a vector that a spec lacks has gain 1.

    If only one of them is a revert, its gains g count as the gains 2 - g of the edit with the same change.

    Raises:
        BaseMismatch: edits of different weights or families.
    """
    mixed = first.reverts != second.reverts
    ours, theirs = ({part.tower: _as_edit(part, mixed) for part in spec.parts if part} for spec in (first, second))
    found: list[GainDifference] = []
    same = 0
    for tower in sorted(ours.keys() | theirs.keys(), reverse=True):
        a, b = ours.get(tower), theirs.get(tower)
        if a is not None and b is not None:
            _check_base(a, b)
        for item in _gains(tower, a, b):
            if item.first == item.second and item.same_direction:
                same += 1
            else:
                found.append(item)
    parts = [(ours.get(tower), theirs.get(tower)) for tower in ours.keys() | theirs.keys()]
    norms = [_norm([(a, b, weights) for a, b in parts]) for weights in ((1, 0), (0, 1), (1, -1))]
    return SpecDiff(tuple(found), same, *norms)


def _as_edit(part: EditSpec, mixed: bool) -> EditSpec:
    return part.with_reverts(False) if mixed else part


def _check_base(one: EditSpec, other: EditSpec) -> None:
    """Raise BaseMismatch for edits of different weights."""
    if one.place.family != other.place.family:
        raise BaseMismatch(f"one edit is of {one.place.title}, the other of {other.place.title}: nothing to compare")
    one.base.only(other.base.sha256).check(
        other.base.sha256, f"the base of the other edit, {other.base.name}", other.base.settings
    )
    if one.write.shape[1] != other.write.shape[1]:
        raise BaseMismatch("the two edits are for towers of different sizes: nothing to compare")


def _gains(tower: str, one: EditSpec | None, other: EditSpec | None) -> Iterator[GainDifference]:
    places = [{} if part is None else {key: i for i, key in enumerate(part.keys)} for part in (one, other)]
    for key in sorted(places[0].keys() | places[1].keys()):
        i, j = places[0].get(key), places[1].get(key)
        first = None if one is None or i is None else float(one.gain[i])
        second = None if other is None or j is None else float(other.gain[j])
        same = True
        if one is not None and other is not None and i is not None and j is not None:
            same = torch.allclose(one.write[i], other.write[j], atol=_SAME)
        yield GainDifference(tower, *key, first, second, same)


def _norm(parts: list[tuple[EditSpec | None, EditSpec | None, tuple[int, int]]]) -> float:
    """Return the norm of a weighted sum of the changes of two specs, over all towers and layers."""
    total = 0.0
    for one, other, weights in parts:
        pairs = [(part, weight) for part, weight in zip((one, other), weights, strict=True) if part is not None]
        for layer in {layer for part, _ in pairs for layer in part.layers}:
            sums: dict[int, Tensor] = {}
            for part, weight in pairs:
                change = part.change(layer)
                for place, delta in [(-1, change.bias), *change.heads.items()]:
                    sums[place] = weight * delta if place not in sums else sums[place] + weight * delta
            total += sum(float(delta.norm()) ** 2 for delta in sums.values())
    return math.sqrt(total)


def _shown(gain: float | None) -> str:
    return "-" if gain is None else f"{gain:g}"


def _note(item: GainDifference) -> str:
    if not item.same_direction:
        return "another direction"
    return "only in A" if item.second is None else "only in B" if item.first is None else ""
