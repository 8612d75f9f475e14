"""The tab ``Leave``."""

from __future__ import annotations

from sith_hf.explore.panel import panel
from sith_hf.explore.shared import Shared


def leave_tab(shared: Shared) -> None:
    """Build the tab."""
    shared.listen(panel("<p>Leave</p>", name="leave"))
