"""Titles, axes with units, and labels beside the lines and points that they name, in place of a legend."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sith_hf.charts.style import FAINT
from sith_hf.core.escaping import sanitize

# Characters in a line of a label, and in an inch of a title; lines at most; points of a label.
_LABEL, _TITLE, _LINES, _SIZE = 22, 9.6, 3, 9


@dataclass(frozen=True)
class End:
    """The name of a line, written beside its last point.

    Attributes:
        x, y: the point.
        text: the name.
        colour: of the line.
    """

    x: float
    y: float
    text: str
    colour: str


def dress(axes: Any, *, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Write the title and the names of the axes (with units, such as ``worst group, %``), and draw the grid.

    Long texts are wrapped to the width of the axes, and cut after three lines.
    """
    figure = axes.figure
    columns = axes.get_subplotspec().get_gridspec().ncols if axes.get_subplotspec() else 1
    width = int((figure.get_figwidth() / columns - 0.7) * _TITLE)
    axes.set_title(_wrapped(title, width, _LINES))
    axes.set_xlabel(_wrapped(x, width - 8, 2))
    axes.set_ylabel(_wrapped(y, int((figure.get_figheight() - 1.4) * _TITLE), 2))
    if grid:
        axes.grid(visible=True)


def label_ends(axes: Any, ends: Sequence[End]) -> None:
    """Write names to the right of the axes, each level with the last point of its line and none over another.

    Call it when all lines are drawn: it reads the limits of the axes.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    texts = [_wrapped(end.text, _LABEL, _LINES) for end in ends]
    order = sorted(range(len(ends)), key=lambda i: (ends[i].y if ends[i].y == ends[i].y else low, -i))
    points = axes.figure.get_figheight() * 72 * 0.92 * axes.get_position().height
    heights = [(texts[i].count("\n") + 1) * _SIZE * 1.35 / points for i in order]
    wanted = [float(to_axes.transform((ends[i].x, min(max(ends[i].y, low), high)))[1]) for i in order]
    for i, place in zip(order, _spread(wanted, heights), strict=True):
        end = ends[i]
        axes.annotate(
            texts[i],
            (end.x, end.y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=_SIZE,
            color=end.colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": end.colour, "linewidth": 0.6, "alpha": 0.5, "linestyle": ":"},
        )


def label_points(axes: Any, x: Sequence[float], y: Sequence[float], notes: Sequence[str]) -> None:
    """Write a short text below and to the right of each point."""
    for at, height, note in zip(x, y, notes, strict=True):
        offset = {"xytext": (5, -11), "textcoords": "offset points"}
        axes.annotate(sanitize(note, 24), (at, height), **offset, fontsize=8.5, color=FAINT)


def _wrapped(text: str, width: int, lines: int) -> str:
    found = textwrap.wrap(sanitize(text, width * lines), width, max_lines=lines, placeholder=" …")
    return "\n".join(found)


def _spread(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Return middles in ascending order, near to those wanted, so far apart that texts of these heights fit."""
    places: list[float] = []
    for middle, height in zip(wanted, heights, strict=True):
        least = places[-1] + (heights[len(places) - 1] + height) / 2 if places else middle
        places.append(max(middle, least))
    roof = 1.02
    for i in reversed(range(len(places))):
        places[i] = min(places[i], roof - heights[i] / 2)
        roof = places[i] - heights[i] / 2
    return places
