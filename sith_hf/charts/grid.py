"""A grid of layers by heads, coloured by a value of each head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sith_hf.charts.labels import wrapped
from sith_hf.charts.style import EMPTY, SEQUENTIAL

# Numbers along an axis, at most.
_TICKS = 12


def head_grid(
    axes: Any,
    values: Sequence[Sequence[float]],
    layers: Sequence[str],
    *,
    label: str,
    low: float = 0.0,
    high: float | None = None,
    colours: Any = SEQUENTIAL,
) -> None:
    """Draw layers (rows, first on top) by heads (columns), with a colour bar.

    Args:
        axes: of a figure of :func:`sith_hf.charts.blank_figure`.
        values: by layer and head; values that are not finite are left grey.
        layers: the name of each row.
        label: of the colour bar, with the unit.
        low, high: the ends of the colour bar; ``high`` is by default the largest value.
        colours: a colour map of matplotlib, or its name.
    """
    import numpy as np

    array = np.ma.masked_invalid(np.asarray(values, dtype=np.float64))
    top = high if high is not None else float(array.max()) if array.count() else 1.0
    axes.set_facecolor(EMPTY)
    top = top if top > low else low + 1.0
    image = axes.imshow(array, cmap=colours, vmin=low, vmax=top, aspect="auto", interpolation="nearest")
    heads = array.shape[1]
    across, down = (max(1, -(-count // _TICKS)) for count in (heads, len(layers)))
    axes.set_xticks(range(0, heads, across))
    axes.set_yticks(range(0, len(layers), down), layers[::down])
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # Thin lines of paper between the heads.
    axes.set_xticks([edge - 0.5 for edge in range(1, heads)], minor=True)
    axes.set_yticks([edge - 0.5 for edge in range(1, len(layers))], minor=True)
    axes.tick_params(which="minor", length=0)
    axes.grid(visible=True, which="minor", color=axes.figure.get_facecolor(), linewidth=0.8)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.08, label=wrapped(label, _along(axes), 3))
    bar.outline.set_visible(False)


def _along(axes: Any) -> int:
    """Return the characters that fit along the height of the axes."""
    place = axes.get_subplotspec()
    rows = place.get_gridspec().nrows if place else 1
    return max(12, int((axes.figure.get_figheight() / rows - 0.9) * 9))
