"""Start the processes of a run as forks of one process: a start of its own would cost each four seconds of imports."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

# What the processes import late.
LATE = ("accelerate", "datasets", "PIL.Image", "transformers.models.clip.modeling_clip", "sith_hf.cli.decompose")


class Ended(NamedTuple):
    """How a process ended: its exit code, below 0 the signal that killed it, and what it printed."""

    code: int
    out: str
    err: str


def forked(work: Callable[[int], None], count: int, folder: Path) -> list[int]:
    """Run ``work`` in ``count`` processes, each with its number, and wait for all.

    Args:
        work: what each does.
        count: of processes.
        folder: for what they print, read by :func:`ended`.
    """
    for name in LATE:
        import_module(name)
    started = [_started(work, rank, folder) for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]


def sharing(work: Callable[[], None], count: int, port: str) -> Callable[[int], None]:
    """Return ``work`` as a launcher starts it: in processes that share a run and meet at a port."""

    def one(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        work()

    return one


def ended(codes: list[int], folder: Path) -> list[Ended]:
    """Return how the processes of :func:`forked` ended."""
    return [Ended(code, *(path.read_text() for path in _printed(folder, rank))) for rank, code in enumerate(codes)]


def _printed(folder: Path, rank: int) -> list[Path]:
    return [folder / f"rank-{rank}.{name}" for name in ("out", "err")]


def _started(work: Callable[[int], None], rank: int, folder: Path) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        for number, path in enumerate(_printed(folder, rank), start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
        work(rank)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # After a peer has died, gloo's threads sometimes abort the interpreter while it ends.
        os._exit(code)
    return 0
