"""The picture of a search: every trial, the Pareto front, the base and the chosen point."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from sith_hf.charts import FAINT, INK, SERIES, blank_figure, dress, label_points, write_figure
from sith_hf.core.escaping import sanitize

Place = tuple[float, float]


def draw_front(
    trials: Sequence[Place],
    front: Sequence[tuple[float, float, str]],
    base: Place,
    chosen: Place,
    path: Path,
    *,
    labels: tuple[str, str],
) -> Path:
    """Draw a search as a PNG, and return its path.

    Args:
        trials: (collateral, target) of every trial.
        front: those of the front in order, each with its number of vectors.
        base, chosen: of the model without an edit, and of the chosen edit.
        path: of the PNG.
        labels: names of collateral and target.

    Raises:
        MissingExtra: matplotlib is not installed.
        OutputError: the file could not be written.
    """
    with blank_figure() as figure:
        axes = figure.subplots()
        axes.plot(*zip(*trials, strict=True), "o", markersize=4, color=FAINT, alpha=0.6)
        if front:
            x, y, notes = zip(*front, strict=True)
            axes.plot(x, y, "o-", color=SERIES[0])
            # No trial lies above the front.
            label_points(axes, x, y, notes, above=True)
        named = [(base, "" if base == chosen else "base", "*", INK)]
        named.append((chosen, "base, chosen" if base == chosen else "chosen", "o", "none"))
        for (at, height), name, marker, face in named:
            axes.plot(at, height, marker, markersize=14, color=INK, markerfacecolor=face, linestyle="none", zorder=6)
            if isfinite(at) and isfinite(height):
                offset = {"xytext": (-11, -4), "textcoords": "offset points", "ha": "right", "va": "top", "zorder": 8}
                axes.annotate(name, (at, height), **offset, fontsize=9.5, color=INK)
        axes.margins(0.08)
        dress(axes, title=_finding(base, chosen, labels), x=labels[0], y=labels[1])
        note = f"Grey: {len(trials)} trials on validation data. Line: the Pareto front, with numbers of vectors"
        figure.supxlabel(note, x=0.02, ha="left", fontsize=8.5, color=FAINT)
        return write_figure(figure, path)


def _finding(base: Place, chosen: Place, labels: tuple[str, str]) -> str:
    """Return what the chosen edit does to both figures."""
    changes = zip(labels[::-1], base[::-1], chosen[::-1], strict=True)
    return "Chosen edit: " + "; ".join(f"{sanitize(name, 60)} {a:.3g} to {b:.3g}" for name, a, b in changes)
