"""``HeadChange``: how the value-output matrix of one head changed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sith_hf.core.short_repr import short_repr

PARTS = ("reweighting", "rotation", "new")
"""The parts of a change, which are orthogonal and add up to it."""


@short_repr
@dataclass(frozen=True)
class HeadChange:
    """The change M' - M of the value-output matrix of one head (Method, sec. 7).

    With U and V the base's singular vectors, the squared norm of the change is the sum of three parts, exactly. The
    parts are shares of it: they add up to 1, or are all 0 for a head that did not change.

    Attributes:
        layer, head: the head.
        base_norm: ||M||, the Frobenius norm.
        change_norm: ||M' - M||; 0 if it is not larger than ``rounding``.
        rounding: what rounding the entries of the factors to their dtype adds to ||M' - M||.
        reweighting: the share of ``U^T (M' - M) V`` that is diagonal; inside a block of close singular values, the
            symmetric part, which is diagonal for one choice of the block's vectors.
        rotation: the share of all other entries of ``U^T (M' - M) V``: inside the base's span.
        new: the share outside the span: what the base's head does not read, or does not write.
        leading: k, the dimension of the compared leading subspaces.
        write_angles, read_angles: the principal angles between the leading k write (read) directions of base and
            tuned, in degrees, ascending.
        directions: the shares of the leading directions of the change itself, s^2 over the sum of all, descending.
    """

    layer: int
    head: int
    base_norm: float
    change_norm: float
    rounding: float
    reweighting: float
    rotation: float
    new: float
    leading: int
    write_angles: tuple[float, ...]
    read_angles: tuple[float, ...]
    directions: tuple[float, ...]

    @property
    def changed(self) -> bool:
        """Whether the head changed by more than rounding."""
        return self.change_norm > 0

    @property
    def relative(self) -> float:
        """The change over the base, ||M' - M|| / ||M||; infinite for a base of zeros that changed."""
        if not self.changed:
            return 0.0
        return self.change_norm / self.base_norm if self.base_norm else math.inf

    @property
    def energy(self) -> float:
        """||M' - M||^2."""
        return self.change_norm**2

    def to_json(self) -> dict[str, Any]:
        """Return plain data; an infinite relative change becomes None."""
        data = {**asdict(self), "relative": self.relative if math.isfinite(self.relative) else None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}


def shares(heads: Iterable[HeadChange]) -> dict[str, float]:
    """Return the parts of the change of several heads together, as shares of the sum of their energies."""
    heads = tuple(heads)
    total = sum(head.energy for head in heads)
    return {name: sum(getattr(h, name) * h.energy for h in heads) / total if total else 0.0 for name in PARTS}


def relative_change(heads: Iterable[HeadChange]) -> float:
    """Return the norm of the change of several heads together over that of their base; infinite for one of zeros."""
    heads = tuple(heads)
    change, base = (math.sqrt(sum(x**2 for x in norms)) for norms in zip(*_norms(heads), strict=True))
    return 0.0 if not change else change / base if base else math.inf


def _norms(heads: tuple[HeadChange, ...]) -> list[tuple[float, float]]:
    return [(head.change_norm, head.base_norm) for head in heads] or [(0.0, 0.0)]
