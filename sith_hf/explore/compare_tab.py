"""The tab ``Compare``."""

from __future__ import annotations

from sith_hf.explore.panel import panel
from sith_hf.explore.shared import Shared


def compare_tab(shared: Shared) -> None:
    """Build the tab."""
    shared.listen(panel("<p>Compare</p>", name="compare"))
