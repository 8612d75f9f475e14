"""The heat map of an ``Adaptation``: layers by heads, the size of the change and its parts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sith_hf.adaptation.adaptation import Adaptation
from sith_hf.adaptation.head_change import PARTS
from sith_hf.charts import INK, blank_figure, head_grid, write_figure
from sith_hf.towers import layer_title

FILE = "heat_map.png"
UNIT = "||M' - M|| / ||M||"


def heat_map(found: Adaptation, path: str | Path) -> Path:
    """Draw four panels of layers (rows, first on top) by heads (columns) as a PNG and return the file's path.

    The first panel shows ||M' - M|| / ||M||, the others the three shares; heads that did not change are grey. Equal
    data give equal bytes.

    Raises:
        MissingExtra: matplotlib is not installed.
        OutputError: the file could not be written.
    """
    layers = len(found.layers)
    heads = len(found.heads) // layers
    wide, high = max(2.4, 0.16 * heads), max(2.0, 0.16 * layers)
    with blank_figure(2 * wide + 3.4, 2 * high + 2.6) as figure:
        figure.suptitle(_title(found), x=0.02, ha="left", fontsize=12, color=INK)
        panels = figure.subplots(2, 2).flat
        for panel, name in zip(panels, ("change", *PARTS), strict=True):
            values = [[_value(head, name) for head in found.of_layer(layer)] for layer in found.layers]
            titles = [str(layer_title(layer, found.settings)) for layer in found.layers]
            share = name in PARTS
            head_grid(panel, values, titles, label="share, 0 to 1" if share else UNIT, high=1.0 if share else None)
            panel.set_title(f"of which {name}" if share else "size of the change", fontsize=10)
        return write_figure(figure, path)


def _title(found: Adaptation) -> str:
    """Return what the map shows: how many heads changed, and the head that changed most."""
    if not found.changed:
        return "The head did not change" if len(found.heads) == 1 else f"None of {len(found.heads)} heads changed"
    most = max(found.changed, key=lambda head: head.relative if math.isfinite(head.relative) else -1.0)
    layer = layer_title(most.layer, found.settings)
    changed = f"{len(found.changed)} of {len(found.heads)} heads changed"
    return f"{changed}, most of all layer {layer} head {most.head}; grey: no value"


def _value(head: Any, name: str) -> float:
    """Return a head's value; NaN, which is blank, for a share of no change."""
    if name == "change":
        return float(head.relative) if math.isfinite(head.relative) else math.nan
    return float(getattr(head, name)) if head.changed else math.nan
