"""An edit and its baselines over a range of strengths or thresholds: worst group and average at every point.

What is measured, and on what, is the caller's: a function from named specs to a worst and an average figure each. It
gets all specs at once, so that one run on the same batches measures them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sith_hf.core.tables import table
from sith_hf.core.validation import finite_number
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError

Specs = Mapping[str, EditSpec | None]
MeasureSpecs = Callable[[Specs], Mapping[str, tuple[float, float]]]
"""From named specs (None is the base itself) to the (worst, average) of each, both from 0 to 1."""

BASE = "base"


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        variant: which edit: ``edited``, ``random 0``, ``whole heads``, ...
        setting: the strength or threshold.
        vectors: how many singular vectors the spec edits.
        worst: the worst group's figure, 0 to 1.
        average: the average of the groups, 0 to 1.
    """

    variant: str
    setting: float
    vectors: int
    worst: float
    average: float


@dataclass(frozen=True)
class Sweep:
    """All points of a sweep, beside the base.

    Attributes:
        over: what was varied, such as ``strength`` or ``threshold``.
        base: (worst, average) of the model without an edit.
        points: by contender, in the order they were given, then by setting as given.
    """

    over: str
    base: tuple[float, float]
    points: tuple[Point, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        """The names, each once, in order."""
        return tuple(dict.fromkeys(point.variant for point in self.points))

    def of(self, variant: str) -> tuple[Point, ...]:
        """The points of one contender. Raises InputError when it is not in the sweep."""
        found = tuple(point for point in self.points if point.variant == variant)
        if not found:
            raise InputError(f"{variant!r} is not in this sweep; there are: {', '.join(self.variants)}")
        return found

    def best(self, variant: str) -> Point:
        """Its point with the best worst group, the first where several are."""
        return max(self.of(variant), key=lambda point: point.worst)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "over": self.over,
            "base": {"worst": self.base[0], "average": self.base[1]},
            "points": [
                {
                    "contender": point.variant,
                    "setting": point.setting,
                    "vectors": point.vectors,
                    "worst": point.worst,
                    "average": point.average,
                }
                for point in self.points
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> Sweep:
        """The inverse of :meth:`to_json`. Raises InputError for anything else."""
        try:
            points = tuple(
                Point(
                    str(p["contender"]), float(p["setting"]), int(p["vectors"]), float(p["worst"]), float(p["average"])
                )
                for p in data["points"]
            )
            return cls(str(data["over"]), (float(data["base"]["worst"]), float(data["base"]["average"])), points)
        except (KeyError, TypeError, ValueError):
            raise InputError("this is not a sweep as to_json gives it: make it again") from None

    def table(self) -> str:
        """As text, in %."""
        rows: list[list[object]] = [[BASE, "", "", *(f"{100 * value:.1f}" for value in self.base)]]
        rows += [
            [p.variant, f"{p.setting:g}", p.vectors, f"{100 * p.worst:.1f}", f"{100 * p.average:.1f}"]
            for p in self.points
        ]
        return table(["contender", self.over, "vectors", "worst group", "average"], rows, "In %")


def strengths(specs: Mapping[str, EditSpec], values: Iterable[float]) -> dict[tuple[str, float], EditSpec | None]:
    """Every spec at every strength, by (name, strength); None where nothing of it is left.

    Args:
        specs: the edit and its baselines by name (:func:`sith_hf.gains.with_baselines`).
        values: 0 is nothing, 1 the edit itself, beyond 1 more of it.

    Raises:
        InputError: no spec, no strength, one that is not finite, or one that is given twice.
    """
    numbers = _settings(values, "a strength")
    return {(name, number): spec * number or None for name, spec in specs.items() for number in numbers}


def thresholds(
    make: Callable[[float], Mapping[str, EditSpec]], values: Iterable[float]
) -> dict[tuple[str, float], EditSpec | None]:
    """What ``make`` gives at every threshold, by (name, threshold), grouped by name; None for empty specs.

    Args:
        make: from a threshold to the edit and its baselines by name; an edit that nothing is chosen for may
            come without baselines.
        values: the thresholds.

    Raises:
        InputError: no threshold, one that is not finite, or one that is given twice.
    """
    made = {number: make(number) for number in _settings(values, "a threshold")}
    names = dict.fromkeys(name for specs in made.values() for name in specs)
    return {(name, number): specs[name] or None for name in names for number, specs in made.items() if name in specs}


def sweep(
    specs: Mapping[tuple[str, float], EditSpec | None], measure: MeasureSpecs, *, over: str = "strength"
) -> Sweep:
    """MeasureSpecs every spec, and the base, in one call.

    Args:
        specs: by (contender, setting), from :func:`strengths` or :func:`thresholds`. Equal specs, and those of None,
            are measured once.
        measure: gets them by name, the base as ``base``.
        over: what the settings are.

    Raises:
        InputError: no spec, a contender called ``base``, or a figure that is missing or not finite.
    """
    if not specs:
        raise InputError("there is nothing to sweep over: give at least one spec")
    asked: dict[str, EditSpec | None] = {BASE: None}
    name_of: dict[tuple[str, float], str] = {}
    for (variant, setting), spec in specs.items():
        if variant == BASE:
            raise InputError(f"a contender cannot be called {BASE}: that is the model without an edit")
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
    return Sweep(over, figures[BASE], tuple(points))


def _figures(measured: Mapping[str, tuple[float, float]], name: str) -> tuple[float, float]:
    if name not in measured:
        raise InputError(f"the measurement gave no figures for {name!r}")
    worst, average = measured[name]
    return finite_number(worst, f"the worst group of {name!r}"), finite_number(average, f"the average of {name!r}")


def _settings(values: Iterable[float], what: str) -> list[float]:
    numbers = [finite_number(value, what) for value in values]
    if not numbers or len(set(numbers)) != len(numbers):
        raise InputError(f"give {what} at least, and none of them twice; got {numbers}")
    return numbers
