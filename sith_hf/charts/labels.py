"""Titles, axes with units, and labels beside the lines and points that they name, in place of a legend."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from sith_hf.charts.style import FAINT, PAPER
from sith_hf.core.escaping import sanitize

# Characters in a line of a label, and in an inch of a title; lines at most.
_LABEL, _TITLE, _LINES = 22, 9.6, 3
# Points of a label; pixels between labels; where they begin, in widths of the axes.
_SIZE, _SMALLEST, _GAP, _BESIDE = 9.0, 5.0, 4, 1.03


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
    width = max(_LABEL, int((figure.get_figwidth() / columns - 0.7) * _TITLE))
    axes.set_title(wrapped(title, width, _LINES))
    axes.set_xlabel(wrapped(x, max(_LABEL, width - 8), 2))
    axes.set_ylabel(wrapped(y, int((figure.get_figheight() - 1.4) * _TITLE), 2))
    if grid:
        axes.grid(visible=True)


def label_ends(*panels: tuple[Any, Sequence[End]]) -> None:
    """Write names to the right of axes, each level with the last point of its line and none over another.

    Points that are not finite get none. Call it last, once for a figure: it reads the limits and places of the axes.

    Args:
        panels: axes of one figure, each with the ends of its lines.
    """
    made = [(axes, _labels(axes, ends)) for axes, ends in panels]
    made = [(axes, labels) for axes, labels in made if labels]
    if not made:
        return
    figure = made[0][0].figure
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.get_layout_engine().execute(figure)
        for axes, labels in made:
            _place(axes, labels)


def _labels(axes: Any, ends: Sequence[End]) -> list[tuple[float, Any]]:
    """Return labels from the lowest up, each with the height that it wants, in heights of the axes."""
    low, high = axes.get_ylim()
    to_axes = axes.transData + axes.transAxes.inverted()
    known = [end for end in ends if isfinite(end.x) and isfinite(end.y)]
    wanted = [float(to_axes.transform((end.x, min(max(end.y, low), high)))[1]) for end in known]
    # Lines that end at the same height are named in their order.
    order = sorted(range(len(known)), key=lambda i: (wanted[i], -i))
    return [(wanted[i], _label(axes, known[i], wanted[i])) for i in order]


def _place(axes: Any, labels: Sequence[tuple[float, Any]]) -> None:
    """Move labels apart; make them smaller if there is no room for all."""
    heights = _heights(axes, labels)
    if sum(heights) > 1:
        for _, label in labels:
            label.set_fontsize(max(_SMALLEST, _SIZE / sum(heights)))
        heights = _heights(axes, labels)
    for (_, label), place in zip(labels, _spread([wanted for wanted, _ in labels], heights), strict=True):
        label.set_position((_BESIDE, place))


def _label(axes: Any, end: End, place: float) -> Any:
    return axes.annotate(
        wrapped(end.text, _LABEL, _LINES),
        (end.x, end.y),
        xytext=(_BESIDE, place),
        textcoords="axes fraction",
        va="center",
        fontsize=_SIZE,
        color=end.colour,
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": end.colour, "linewidth": 0.6, "alpha": 0.5, "linestyle": ":"},
    )


def _heights(axes: Any, labels: Sequence[tuple[float, Any]]) -> list[float]:
    """Return the heights of labels as parts of the height of the axes, with a gap."""
    from matplotlib.text import Text

    whole = axes.get_window_extent().height
    return [(Text.get_window_extent(label).height + _GAP) / whole for _, label in labels]


def label_points(
    axes: Any, x: Sequence[float], y: Sequence[float], notes: Sequence[str], *, above: bool = False
) -> None:
    """Write a short text to the right of each point, below or above it, with a rim of paper to read on a line."""
    from matplotlib.patheffects import withStroke

    for at, height, note in zip(x, y, notes, strict=True):
        place = {"xytext": (5, 4 if above else -11), "textcoords": "offset points", "zorder": 7}
        rim = [withStroke(linewidth=2.5, foreground=PAPER)]
        axes.annotate(sanitize(note, 24), (at, height), **place, fontsize=8.5, color=FAINT, path_effects=rim)


def wrapped(text: str, width: int, lines: int) -> str:
    """Return a text on so many lines of this width at most, in characters; a longer one ends in ``…``."""
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
