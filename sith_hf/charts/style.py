"""The colours of pictures, all on ``PAPER``. INK, FAINT and SERIES are for texts too."""

from __future__ import annotations

PAPER = "#ffffff"
INK, FAINT = "#20242a", "#5f6771"
# Grid lines, the frame of a picture, outlines of marks, and places without a value.
GRID, FRAME, EDGE, EMPTY = "#dde1e6", "#c4cad1", "#424850", "#eceef1"

# Any two differ by at least 25 in Lab, also for readers without red, green or blue cones. The first is the main line.
SERIES = ("#0072b2", "#b35900", "#8020e0", "#602040", "#002080", "#a06080")

# What raises a value, and what lowers it.
RAISES, LOWERS = "#d55e00", "#0072b2"

SEQUENTIAL = "cividis"
"""The matplotlib colour map of amounts: ordered by lightness, the same with any colour vision."""
