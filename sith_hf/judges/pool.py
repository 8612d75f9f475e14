"""Several things at once, bounded, that end at once when they are told to."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Stopped(Exception):
    """Nobody waits for the result any more."""


def concurrently(
    work: Callable[[T, Callable[[float], object]], R],
    items: Sequence[T],
    workers: int,
    wait: Callable[[float], object] | None = None,
    final: Callable[[BaseException], bool] = lambda error: False,
) -> Generator[tuple[T, R | BaseException], None, None]:
    """Do ``work`` to every item in threads; yields each item with its result, or what it raised, as they come.

    Closing the iterator, as an exception or Ctrl-C in the loop over it should, leaves undone what has not begun and
    waits for nothing: the threads are daemons, so that a silent server cannot hold the process.

    Args:
        work: is given the item, and a function that waits for some seconds unless all is being stopped.
        items: what to do it to.
        workers: how many at once.
        wait: waits for some seconds; the clock's when None.
        final: whether nothing more is to be begun after what ``work`` raised.
    """
    stop = Event()
    todo: SimpleQueue[T] = SimpleQueue()
    done: SimpleQueue[tuple[T, R | BaseException]] = SimpleQueue()
    for item in items:
        todo.put(item)

    def pause(seconds: float) -> None:
        (stop.wait if wait is None else wait)(seconds)
        if stop.is_set():
            raise _Stopped

    def run() -> None:
        while not stop.is_set():
            try:
                item = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((item, work(item, pause)))
            except BaseException as error:  # it is raised where the results are read
                done.put((item, error))
                if final(error):
                    stop.set()

    for _ in range(min(workers, len(items))):
        Thread(target=run, daemon=True).start()
    try:
        for _ in items:
            yield done.get()
    finally:
        stop.set()
