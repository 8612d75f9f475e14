"""The chart of a ``FidelityTable``: fidelity and coherence of each method, beside random directions and the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from sith_hf.charts import FAINT, FRAME, GRID, INK, SERIES, End, blank_figure, dress, label_ends, write_figure
from sith_hf.errors import InputError
from sith_hf.fidelity.table import FidelityTable

KEYS = ("fidelity", "coherence")
METHOD, RANDOM = SERIES[:2]

# Panels beside each other.
_ACROSS = 4

Points = list[dict[str, Any]]


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
    """Draw ``table`` as a PNG and return the file's path. Equal tables give equal bytes.

    With several sparsities, each method has a panel of fidelity and one of coherence, with the other methods in light
    grey. With one sparsity, each method is a row of two panels. Random directions explained by the same method are
    dashed lines or open marks; the dotted line is the mean ceiling. A measure without values, as the coherence of one
    concept, has no panel.

    Raises:
        InputError, MissingExtra: as for :func:`check_plot`.
        OutputError: the file could not be written.
    """
    check_plot(path)
    methods: dict[str, Points] = {}
    for result in table.results:
        methods.setdefault(result.name, []).append(table.summary(result))
    for points in methods.values():
        points.sort(key=lambda point: point["sparsity"])
    ceiling = float(table.ceiling.double().mean())
    one = len({point["sparsity"] for points in methods.values() for point in points}) == 1
    keys = [key for key in KEYS if key == KEYS[0] or any(isfinite(p[key]) for ps in methods.values() for p in ps)]
    blocks = 1 if one else -(-len(methods) // _ACROSS)
    width = 8.6 if one else 2.9 + 2.1 * min(len(methods), _ACROSS)
    with blank_figure(max(7.0, width), 1.9 + 0.42 * len(methods) if one else 0.9 + 2.1 * len(keys) * blocks) as figure:
        figure.suptitle(_finding(methods, ceiling, one), x=0.02, ha="left", fontsize=11.5, color=INK)
        (_rows if one else _panels)(figure, methods, ceiling, keys)
        return write_figure(figure, path)


def _finding(methods: dict[str, Points], ceiling: float, one: bool) -> str:
    """Return the title: the highest fidelity, and what random directions and a perfect method reach."""
    points = [(point["fidelity"], name, point) for name, points in methods.items() for point in points]
    best, name, point = max(points, key=lambda item: item[0] if isfinite(item[0]) else -1.0)
    others = [f"random directions {point['null_fidelity']:.2f}"] if "null_fidelity" in point else []
    concepts = "1 concept" if point["sparsity"] == 1 else f"{point['sparsity']} concepts"
    which = name if one and len(methods) == 1 else f"Highest: {name}"
    return f"{which} with {concepts}, fidelity {best:.2f}\n({', '.join([*others, f'ceiling {ceiling:.2f}'])})"


def _rows(figure: Any, methods: dict[str, Points], ceiling: float, keys: Sequence[str]) -> None:
    """Draw one sparsity: a row for each method, its mark and that of random directions, each with its value."""
    points = [points[0] for points in methods.values()]
    for panel, key in zip(figure.subplots(1, len(keys), sharey=True, squeeze=False)[0], keys, strict=True):
        places = range(len(points))
        marks = [([point[key] for point in points], key, METHOD, "o", METHOD)]
        if f"null_{key}" in points[0]:
            marks.append(([point[f"null_{key}"] for point in points], "random", RANDOM, "D", "none"))
        # A coherence is a mean cosine, often slightly below zero: its axis follows the values.
        finite = [value for values, *_ in marks for value in values if isfinite(value)]
        low, high = (0.0, 1.0) if key == "fidelity" else (min(0.0, *finite) - 0.01, max(0.0, *finite) + 0.01)
        panel.hlines(places, low, high, color=GRID, linewidth=0.8)
        for values, name, colour, marker, face in marks:
            panel.plot(values, places, marker, markersize=7, color=colour, markerfacecolor=face, linestyle="none")
            for place, value in zip(places, values, strict=True):
                text = f"{name} {value:.2f}" if place == 0 else f"{value:.2f}"
                above = {"xytext": (0, 7 if face == METHOD else -14), "textcoords": "offset points"}
                panel.annotate(text, (value, place), **above, ha="center", fontsize=8.5, color=colour)
        if key == "fidelity":
            _ceiling(panel.axvline, ceiling)
            panel.text(ceiling, 0.02, " ceiling", transform=panel.get_xaxis_transform(), fontsize=8.5, color=FAINT)
        panel.set_yticks(places, list(methods))
        panel.set(xlim=(low, high), ylim=(len(points) - 0.4, -0.6))
        panel.tick_params(axis="y", length=0, labelcolor=INK)
        dress(panel, x="mean fidelity, 0 to 1" if key == "fidelity" else "mean coherence, a cosine", grid=False)


def _panels(figure: Any, methods: dict[str, Points], ceiling: float, keys: Sequence[str]) -> None:
    """Draw several sparsities: a panel of each measure for each method, the others of the measure behind it."""
    names = list(methods)
    across = min(len(names), _ACROSS)
    ticks = sorted({point["sparsity"] for points in methods.values() for point in points})
    panels = figure.subplots(len(keys) * -(-len(names) // across), across, squeeze=False, sharex=True)
    labelled: list[tuple[Any, list[End]]] = []
    for panel in panels.flat:
        panel.set_visible(False)
    for row, key in enumerate(keys):
        places = [panels[len(keys) * (number // across) + row][number % across] for number in range(len(names))]
        ends = [_panel(panel, methods, name, key, ceiling) for panel, name in zip(places, names, strict=True)]
        low, high = min(0.0, *(panel.get_ylim()[0] for panel in places)), max(panel.get_ylim()[1] for panel in places)
        for number, (panel, name) in enumerate(zip(places, names, strict=True)):
            panel.set_ylim(low, high)
            panel.set_xscale("log")
            panel.set_xticks(ticks, [str(tick) for tick in ticks])
            panel.minorticks_off()
            first, last = number % across == 0, number % across == across - 1 or number == len(names) - 1
            dress(
                panel,
                title=name if row == 0 else "",
                x="concepts" if row == len(keys) - 1 else "",
                y=f"mean {key}" if first else "",
                grid=False,
            )
            panel.tick_params(labelbottom=row == len(keys) - 1)
            if last:
                labelled.append((panel, ends[number]))
    label_ends(*labelled)


def _panel(panel: Any, methods: dict[str, Points], name: str, key: str, ceiling: float) -> list[End]:
    """Draw one method; return the names of its lines."""
    panel.set_visible(True)
    for other, points in methods.items():
        if other != name:
            panel.plot(*_line(points, key), color=FRAME, linewidth=0.9, zorder=1)
    x, y = _line(methods[name], key)
    panel.plot(x, y, marker="o", color=METHOD, zorder=4)
    ends = [End(x[-1], y[-1], key, METHOD)]
    if f"null_{key}" in methods[name][0]:
        x, y = _line(methods[name], f"null_{key}")
        panel.plot(x, y, marker="D", markerfacecolor="none", linestyle="--", color=RANDOM, zorder=3)
        ends.append(End(x[-1], y[-1], "random", RANDOM))
    if key == "fidelity":
        _ceiling(panel.axhline, ceiling)
        ends.append(End(x[-1], ceiling, "ceiling", FAINT))
    return ends


def _ceiling(line: Any, value: float) -> None:
    line(value, color=FAINT, linestyle=":", linewidth=1.2)


def _line(points: Points, key: str) -> tuple[list[int], list[float]]:
    return [point["sparsity"] for point in points], [point[key] for point in points]
