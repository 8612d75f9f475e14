"""Charts as PNG files by matplotlib, an optional package. Equal data give equal bytes.

Charts are drawn without pyplot, independent of the user's matplotlib settings, and texts are never read as markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sith_hf.core.colours import FAINT, GRID, INK, SERIES
from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError, MissingExtra
from sith_hf.evaluation.sweep import Sweep
from sith_hf.files import write_whole
from sith_hf.images import BASE

MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH, HEIGHT, DPI = 7.0, 4.6, 150


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: its text in the legend.
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
    """Draw lines with points and a legend, and return the file's path.

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
        if mark is not None:
            axes.plot(*mark[:2], marker="*", markersize=14, linestyle="none", color=INK, label=_word(mark[2]))
        for i, item in enumerate(series):
            colour = SERIES[i % len(SERIES)]
            style = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "linestyle": "--" if item.dashed else "-"}
            axes.plot(item.x, item.y, label=_word(item.name), markersize=5, linewidth=1.6, zorder=4 + i / 100, **style)
            for x, y, note in zip(item.x, item.y, item.notes or (), strict=False):
                axes.annotate(_word(note), (x, y), xytext=(4, -10), textcoords="offset points", fontsize=7, color=FAINT)
        axes.set_title(sanitize(title), loc="left", fontsize=11, color=INK)
        axes.set_xlabel(sanitize(x_label), color=INK)
        axes.set_ylabel(sanitize(y_label), color=INK)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        return write_figure(figure, path)


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


@contextmanager
def blank_figure() -> Iterator[Any]:
    """Yield a figure with matplotlib's default settings; the user's are restored when the block ends.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context, rcParamsDefault
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "plot") from None
    settings = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    with rc_context({**settings, "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def write_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure as a PNG, inside the block of :func:`blank_figure`; return its path. Raises OutputError."""
    file = io.BytesIO()
    # matplotlib would write its version; without it, equal data give equal bytes.
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(Path(path), file.getvalue())
    return Path(path)


def _word(text: str) -> str:
    """Return a name for the legend; matplotlib hides names that begin with an underscore."""
    safe = sanitize(text, 60)
    return f" {safe}" if safe.startswith("_") else safe
