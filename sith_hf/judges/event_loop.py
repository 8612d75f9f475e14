"""Run a coroutine from synchronous code, also in a notebook, so that Ctrl-C ends it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

R = TypeVar("R")

# Seconds for a cancelled coroutine to close its connections. A name lookup cannot be cancelled.
GRACE = 1.0


def run(work: Coroutine[Any, Any, R]) -> R:
    """Return what ``work`` returns, or raise what it raises.

    It runs in its own event loop in a daemon thread, because this thread may have a running loop already. An exception
    in this thread, such as KeyboardInterrupt, cancels ``work``.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)

    def finish() -> None:
        loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = Thread(target=finish, daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        if thread.is_alive():
            with suppress(RuntimeError):  # the loop has just closed
                loop.call_soon_threadsafe(task.cancel)
            thread.join(GRACE)
    return task.result()
