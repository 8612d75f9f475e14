"""The heat map of an ``Adaptation``: layers by heads, the size of the change and its parts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sith_hf.adaptation.adaptation import Adaptation
from sith_hf.adaptation.head_change import PARTS
from sith_hf.core.colours import FAINT, INK
from sith_hf.evaluation import blank_figure, write_figure
from sith_hf.towers import layer_title

FILE = "heat_map.png"


def heat_map(found: Adaptation, path: str | Path) -> Path:
    """Draw four panels of layers (rows, first on top) by heads (columns) as a PNG and return the file's path.

    The first panel shows ||M' - M|| / ||M||, the others the three shares; heads that did not change are blank. Equal
    data give equal bytes.

    Raises:
        MissingExtra: matplotlib is not installed.
        OutputError: the file could not be written.
    """
    with blank_figure() as figure:
        layers = len(found.layers)
        heads = len(found.heads) // layers
        figure.set_size_inches(3 + 4 * max(1.6, 0.16 * heads), 1.4 + max(1.6, 0.16 * layers))
        for number, (panel, name) in enumerate(zip(figure.subplots(1, 4), ("change", *PARTS), strict=True)):
            _panel(figure, panel, found, name)
            if number:
                panel.set_yticks([])
        return write_figure(figure, path)


def _panel(figure: Any, panel: Any, found: Adaptation, name: str) -> None:
    values = [[_value(head, name) for head in found.of_layer(layer)] for layer in found.layers]
    finite = [value for row in values for value in row if math.isfinite(value)]
    top = 1.0 if name in PARTS else max(finite, default=0.0) or 1.0
    image = panel.imshow(values, cmap="cividis", vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    panel.set_title("||M' - M|| / ||M||" if name == "change" else f"share: {name}", loc="left", fontsize=9, color=INK)
    panel.set_xlabel("head", fontsize=8, color=INK)
    titles = [str(layer_title(layer, found.settings)) for layer in found.layers]
    panel.set_yticks(range(len(titles)), titles)
    panel.tick_params(labelsize=7, colors=FAINT)
    panel.xaxis.get_major_locator().set_params(integer=True)
    figure.colorbar(image, ax=panel, fraction=0.08).ax.tick_params(labelsize=7, colors=FAINT)


def _value(head: Any, name: str) -> float:
    """Return a head's value; NaN, which is blank, for a share of no change."""
    if name == "change":
        return float(head.relative) if math.isfinite(head.relative) else math.nan
    return float(getattr(head, name)) if head.changed else math.nan
