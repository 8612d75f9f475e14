"""The picture of a search: every trial, the Pareto front, the base and the chosen point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sith_hf.core.colours import FAINT, GRID, INK, SERIES
from sith_hf.core.escaping import sanitize
from sith_hf.evaluation import blank_figure, write_figure

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
        front: those of the front in order, each with a note.
        base, chosen: of the model without an edit, and of the chosen edit.
        path: of the PNG.
        labels: names of collateral and target.

    Raises:
        MissingExtra: matplotlib is not installed.
        OutputError: the file could not be written.
    """
    with blank_figure() as figure:
        axes = figure.subplots()
        x, y = zip(*trials, strict=True)
        axes.plot(x, y, "o", markersize=4, color=FAINT, alpha=0.6, label=f"{len(trials)} trials")
        x, y, notes = zip(*front, strict=True)
        axes.plot(x, y, "o-", markersize=5, linewidth=1.6, color=SERIES[0], label="Pareto front, number of vectors")
        for at, height, note in zip(x, y, notes, strict=True):
            axes.annotate(note, (at, height), xytext=(4, -10), textcoords="offset points", fontsize=7, color=FAINT)
        axes.plot(*base, marker="*", markersize=14, linestyle="none", color=INK, label="base")
        ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(*chosen, **ring, color=INK, label="chosen")
        axes.set_title("Trials on validation data", loc="left", fontsize=11, color=INK)
        axes.set_xlabel(sanitize(labels[0], 80), color=INK)
        axes.set_ylabel(sanitize(labels[1], 80), color=INK)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
        return write_figure(figure, path)
