"""Figures of matplotlib, an optional package, independent of the user's settings; texts are never read as markup."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sith_hf.charts.style import EDGE, FAINT, FRAME, GRID, INK, PAPER
from sith_hf.errors import MissingExtra
from sith_hf.files import write_whole

WIDTH, HEIGHT, DPI = 7.0, 4.6, 150

# Fonts with letters that matplotlib's own font lacks, each used where it is installed.
_OTHER_SCRIPTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Unifont")

_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": EDGE,
    "ytick.color": EDGE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}


@contextmanager
def blank_figure(width: float = WIDTH, height: float = HEIGHT) -> Iterator[Any]:
    """Yield an empty ``matplotlib.figure.Figure`` in the style; the user's settings are restored when the block ends.

    Draw and write it inside the block.

    Args:
        width, height: in inches of 150 pixels.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib import font_manager, rc_context, rcParamsDefault
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise MissingExtra("matplotlib", "plot") from None
    settings = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _OTHER_SCRIPTS if name in installed)]
    with rc_context({**settings, **_SETTINGS, "font.family": fonts}):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
        figure = _figure_class()(figsize=(width, height), dpi=DPI, layout=layout, edgecolor=FRAME, linewidth=2)
        FigureCanvasAgg(figure)
        yield figure


@cache
def _figure_class() -> Any:
    """Return the class of figures: one of matplotlib that a notebook shows, without pyplot."""
    from matplotlib import figure

    class Figure(figure.Figure):
        def _repr_png_(self) -> bytes:
            return figure_bytes(self)

    return Figure


def figure_bytes(figure: Any) -> bytes:
    """Return a figure as a PNG, inside the block of :func:`blank_figure`."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that no font has are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        # matplotlib would write its version; without it, equal data give equal bytes.
        figure.savefig(file, format="png", dpi=DPI, edgecolor=figure.get_edgecolor(), metadata={"Software": None})
    return file.getvalue()


def write_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure as a PNG, inside the block of :func:`blank_figure`; return its path. Raises OutputError."""
    write_whole(Path(path), figure_bytes(figure))
    return Path(path)
