"""The colours of charts and pictures: texts, grid lines, and series for any kind of colour vision."""

from __future__ import annotations

INK, FAINT, GRID = "#20242a", "#68707a", "#dde1e6"

# Okabe and Ito, 2008; more series than these become unreadable.
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
