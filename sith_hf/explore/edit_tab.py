"""The tab ``Edit``."""

from __future__ import annotations

from sith_hf.explore.panel import panel
from sith_hf.explore.shared import Shared


def edit_tab(shared: Shared) -> None:
    """Build the tab."""
    shared.listen(panel("<p>Edit</p>", name="edit"))
