"""An edit and its baselines over a range of strengths: worst group and average at every point.

The caller provides the measurement. It gets all specs at once, so that one pass over the images measures them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sith_hf.core.short_repr import short_repr
from sith_hf.core.tables import table
from sith_hf.core.validation import finite_number
from sith_hf.edits import AnySpec
from sith_hf.errors import InputError
from sith_hf.images import BASE

Specs = Mapping[str, AnySpec | None]
MeasureSpecs = Callable[[Specs], Mapping[str, tuple[float, float]]]
"""A measurement: from named specs (None is the base) to the (worst, average) of each, from 0 to 1."""


_FIGURES = ("setting", "vectors", "worst", "average")


@short_repr
@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        variant: name of the edit: ``edited``, ``random 0``, ``whole heads``, ...
        setting: the strength.
        vectors: number of edited singular vectors.
        worst: the worst group's figure, 0 to 1.
        average: the average of the groups, 0 to 1.
    """

    variant: str
    setting: float
    vectors: int
    worst: float
    average: float


@short_repr
@dataclass(frozen=True)
class Sweep:
    """All points of a sweep, and the base.

    Attributes:
        over: what varies, such as ``strength``.
        base: (worst, average) of the model without an edit.
        points: by variant, then by setting, each in the order given.
    """

    over: str
    base: tuple[float, float]
    points: tuple[Point, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of variants, in order."""
        return tuple(dict.fromkeys(point.variant for point in self.points))

    def of(self, variant: str) -> tuple[Point, ...]:
        """Return the points of one variant. Raises InputError for an unknown name."""
        found = tuple(point for point in self.points if point.variant == variant)
        if not found:
            raise InputError(f"{variant!r} is not in this sweep; its variants are {', '.join(self.variants)}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        points = [
            {"contender" if key == "variant" else key: value for key, value in vars(p).items()} for p in self.points
        ]
        return {"over": self.over, "base": {"worst": self.base[0], "average": self.base[1]}, "points": points}

    def table(self) -> str:
        """Format all points as text, in %."""
        rows: list[list[object]] = [[BASE, "", "", *(f"{100 * value:.1f}" for value in self.base)]]
        rows += [
            [p.variant, f"{p.setting:g}", p.vectors, f"{100 * p.worst:.1f}", f"{100 * p.average:.1f}"]
            for p in self.points
        ]
        return table(["variant", self.over, "vectors", "worst group", "average"], rows, "In %")


def strengths(specs: Mapping[str, AnySpec], values: Iterable[float]) -> dict[tuple[str, float], AnySpec | None]:
    """Return every spec at every strength, by (name, strength); None where the edit is empty.

    Args:
        specs: the edit and its baselines by name (:func:`sith_hf.gains.with_baselines`).
        values: 0 is no edit, 1 the edit itself, above 1 a stronger one.

    Raises:
        InputError: no strength, one that is not finite, or a repeated one.
    """
    numbers = [finite_number(value, "a strength") for value in values]
    if not numbers or len(set(numbers)) != len(numbers):
        raise InputError(f"a sweep needs at least one strength, each different; got {numbers}")
    return {(name, number): spec * number or None for name, spec in specs.items() for number in numbers}


def sweep(specs: Mapping[tuple[str, float], AnySpec | None], measure: MeasureSpecs) -> Sweep:
    """Measure every spec and the base in one call.

    Args:
        specs: by (variant, setting), from :func:`strengths`. Equal specs are measured once, None as the base.
        measure: gets the specs by name, the base as ``base``.

    Raises:
        InputError: no spec, a variant called ``base``, or a figure that is missing or not finite.
    """
    if not specs:
        raise InputError("a sweep needs at least one spec; got none")
    asked: dict[str, AnySpec | None] = {BASE: None}
    name_of: dict[tuple[str, float], str] = {}
    for (variant, setting), spec in specs.items():
        if variant == BASE:
            raise InputError(f"a variant is called {BASE}, the name of the model without an edit; rename it")
        name = f"{variant} at {setting!r}"
        same = next((known for known, other in asked.items() if other == spec), None)
        name_of[variant, setting] = name if same is None else same
        if same is None:
            asked[name] = spec
    measured = measure(MappingProxyType(asked))
    figures = {name: _figures(measured, name) for name in asked}
    points = [
        Point(variant, setting, 0 if spec is None else len(spec), *figures[name_of[variant, setting]])
        for (variant, setting), spec in specs.items()
    ]
    return Sweep("strength", figures[BASE], tuple(points))


def _figures(measured: Mapping[str, tuple[float, float]], name: str) -> tuple[float, float]:
    if name not in measured:
        raise InputError(f"the measurement returned no figures for {name!r}")
    worst, average = measured[name]
    return finite_number(worst, f"the worst group of {name!r}"), finite_number(average, f"the average of {name!r}")
