"""The style of every picture: colours, fonts, frames, axes, direct labels and grids of heads, by matplotlib or Pillow.

A picture is an opaque sheet of ``PAPER`` with a thin frame, so it reads the same on a light and on a dark page. Texts
have a contrast of at least 4.5 to the sheet, and marks of at least 3. Equal data give equal bytes. Imports ``core`` and
``files``; matplotlib (extra ``plot``) and Pillow are loaded on first use.
"""

from sith_hf.charts.drawn import drawable, fitted, font, new_sheet, sheet_bytes
from sith_hf.charts.figure import blank_figure, figure_bytes, write_figure
from sith_hf.charts.grid import head_grid
from sith_hf.charts.labels import End, dress, label_ends, label_points
from sith_hf.charts.style import EDGE, EMPTY, FAINT, FRAME, GRID, INK, LOWERS, PAPER, RAISES, SERIES

__all__ = [
    "EDGE",
    "EMPTY",
    "FAINT",
    "FRAME",
    "GRID",
    "INK",
    "LOWERS",
    "PAPER",
    "RAISES",
    "SERIES",
    "End",
    "blank_figure",
    "drawable",
    "dress",
    "figure_bytes",
    "fitted",
    "font",
    "head_grid",
    "label_ends",
    "label_points",
    "new_sheet",
    "sheet_bytes",
    "write_figure",
]
