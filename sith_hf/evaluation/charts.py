"""Line charts as PNG files: each line has its name at its end. Equal data give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from sith_hf.charts import INK, SERIES, End, blank_figure, dress, label_ends, label_points, write_figure
from sith_hf.errors import InputError
from sith_hf.evaluation.sweep import Sweep
from sith_hf.images import BASE

# One more than SERIES has colours, so that no two lines of many are the same.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: the text at its end.
        x, y: the points, joined in order. A y of NaN leaves a gap.
        notes: a short text beside each point.
        dashed: draw a dashed line, for baselines.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    notes: Sequence[str] | None = None
    dashed: bool = False


def line_chart(
    series: Sequence[Series],
    path: str | Path,
    *,
    title: str,
    x_label: str,
    y_label: str,
    mark: tuple[float, float, str] | None = None,
) -> Path:
    """Draw lines with points, each with its name at its last point, and return the file's path.

    Args:
        series: at least one.
        path: of the PNG.
        title, x_label, y_label: texts.
        mark: (x, y, name) of a reference point.

    Raises:
        InputError: no series, or one with parts of different lengths.
        MissingExtra: matplotlib is not installed.
        OutputError: the file could not be written.
    """
    if not series:
        raise InputError("a chart needs at least one series")
    for item in series:
        lengths = {len(part) for part in (item.x, item.y, item.notes) if part is not None}
        if len(lengths) != 1:
            raise InputError(f"the parts of series {item.name!r} differ in length: {sorted(lengths)}")
    with blank_figure() as figure:
        axes = figure.subplots()
        ends = [_draw(axes, item, number) for number, item in enumerate(series)]
        if mark is not None and all(map(isfinite, mark[:2])):
            axes.plot(*mark[:2], marker="*", markersize=14, linestyle="none", color=INK, zorder=6)
            ends.append(End(*mark[:2], mark[2], INK))
        dress(axes, title=title, x=x_label, y=y_label)
        label_ends((axes, [end for end in ends if end]))
        return write_figure(figure, path)


def _draw(axes: Any, item: Series, number: int) -> End | None:
    """Draw a line; return its name at its last point that is finite."""
    colour = SERIES[number % len(SERIES)]
    style = {"marker": MARKERS[number % len(MARKERS)], "linestyle": "--" if item.dashed else "-"}
    axes.plot(item.x, item.y, color=colour, zorder=4 + number / 100, **style)
    finite = [place for place in zip(item.x, item.y, strict=True) if all(map(isfinite, place))]
    if item.notes:
        label_points(axes, item.x, item.y, item.notes)
    return End(*finite[-1], item.name, colour) if finite else None


def worst_against_average(result: Sweep, path: str | Path) -> Path:
    """Draw the worst group (y) against the average (x), in %, one line for each variant; return the file's path.

    The points of the first variant are labelled with their settings.

    Raises:
        MissingExtra, OutputError: as for :func:`line_chart`.
    """
    series = []
    for i, name in enumerate(result.variants):
        points = result.of(name)
        notes = [f"{point.setting:g}" for point in points] if i == 0 else None
        x, y = [100 * point.average for point in points], [100 * point.worst for point in points]
        series.append(Series(name, x, y, notes=notes, dashed=i > 0))
    return line_chart(
        series,
        path,
        title=f"Worst group against average, by {result.over}",
        x_label="average of the groups, %",
        y_label="worst group, %",
        mark=(100 * result.base[1], 100 * result.base[0], BASE),
    )
