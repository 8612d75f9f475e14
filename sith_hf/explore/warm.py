"""Work that the first click would wait for, done in the background once the page is served."""

from __future__ import annotations

import os
from contextlib import suppress
from threading import Thread

from sith_hf.explore.explorer import Explorer


def warm_up(explorer: Explorer) -> Thread:
    """Start the work in a daemon thread, and return the thread."""
    thread = Thread(target=_work, args=(explorer,), daemon=True)
    thread.start()
    return thread


def _work(explorer: Explorer) -> None:
    # Gradio imports it with the first event, and looks for a display. A notebook has chosen its own.
    if "MPLBACKEND" not in os.environ:
        _without_display()
    if explorer.decomposition.has_words:
        explorer.decomposition.atoms  # noqa: B018  - kept for searches


def _without_display() -> None:
    with suppress(ModuleNotFoundError):
        import matplotlib

        matplotlib.use("agg")
