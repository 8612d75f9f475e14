"""The chart of a ``FidelityTable``: fidelity and coherence over sparsity, one line a method, chance dashed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sith_hf.core.colours import FAINT, SERIES
from sith_hf.errors import InputError
from sith_hf.evaluation import blank_figure, write_figure
from sith_hf.fidelity.table import FidelityTable

MARKERS = "osD^vPX"


def check_plot(path: str | Path) -> None:
    """Check the path and matplotlib before a long computation.

    Raises:
        InputError: another ending than .png.
        MissingExtra: matplotlib is not installed.
    """
    if Path(path).suffix != ".png":
        raise InputError(f"{path}: the plot is a PNG file; use a name that ends with .png")
    with blank_figure():
        pass


def fidelity_chart(table: FidelityTable, path: str | Path) -> Path:
    """Draw ``table`` as a PNG of two panels and return the file's path. Equal tables give equal bytes.

    Dashed lines show random directions explained by the method of that colour; the dotted line is the mean ceiling.

    Raises:
        InputError, MissingExtra: as for :func:`check_plot`.
        OutputError: the file could not be written.
    """
    check_plot(path)
    lines: dict[str, list[dict[str, Any]]] = {}
    for result in table.results:
        lines.setdefault(result.name, []).append(table.summary(result))
    ticks = sorted({result.pursuit.sparsity for result in table.results})
    with blank_figure() as figure:
        figure.set_size_inches(10.0, 4.4)
        panels = figure.subplots(1, 2)
        for panel, key in zip(panels, ("fidelity", "coherence"), strict=True):
            for number, (name, points) in enumerate(lines.items()):
                ordered = sorted(points, key=lambda point: point["sparsity"])
                across = [point["sparsity"] for point in ordered]
                style = {"color": SERIES[number % len(SERIES)], "linewidth": 1.4}
                marker = MARKERS[number % len(MARKERS)]
                panel.plot(across, [p[key] for p in ordered], marker=marker, markersize=4, label=name, **style)
                if table.null is not None:
                    panel.plot(across, [p[f"null_{key}"] for p in ordered], linestyle="--", alpha=0.6, **style)
            panel.set_xscale("log")
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.minorticks_off()
            panel.set_xlabel("concepts in an explanation")
            panel.set_ylabel(f"mean {key}")
            panel.spines[["top", "right"]].set_visible(False)
        ceiling = float(table.ceiling.double().mean())
        panels[0].axhline(ceiling, color=FAINT, linestyle=":", linewidth=1, label="ceiling")
        if table.null is not None:
            panels[0].plot([], [], color=FAINT, linestyle="--", linewidth=1.4, label=f"random ({table.null})")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9)
        return write_figure(figure, path)
