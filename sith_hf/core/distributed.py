"""Several processes on one job, as ``accelerate launch`` and ``torchrun`` start them, or this one alone."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sith_hf import errors
from sith_hf.errors import InputError, SithError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# The longest that one part of a job may take in one process while the others wait for it.
PART_TIMEOUT = timedelta(hours=1)
# The longest that a process with nothing left to do waits for the main one to say how it ended.
FAREWELL = timedelta(seconds=10)

# How launchers tell the number of processes; PartialState reads the same.
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


@dataclass(frozen=True)
class Processes:
    """The processes that share a job. Every one of them must come to each call of :meth:`together` and
    :meth:`on_main`, in the same order.

    Attributes:
        number: how many there are.
        index: which of them this is, from 0, the main one, which alone prints and writes.
    """

    number: int = 1
    index: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.index == 0

    def together(self, do: Callable[[], T]) -> list[T]:
        """What ``do`` gives in each process, by process, in all of them. What it gives must be picklable.

        Raises:
            SithError: in every process, where ``do`` failed in one or one is gone. What failed here is raised as it is.
        """
        if self.number == 1:
            return [do()]
        failure: Exception | None = None
        result: Any = None
        try:
            result = do()
        except Exception as error:
            failure = error
        told = None if failure is None else _told(failure)
        found = self._gathered((told, result))
        if failure is not None:
            raise failure
        for index, (told, _) in enumerate(found):
            if told is not None:
                raise _as_told(index, *told)
        return [result for _, result in found]

    def on_main(self, do: Callable[[], T]) -> T:
        """What ``do`` gives in the main process, in all of them; the others do not call it. Raises as together."""
        results: list[Any] = self.together(lambda: do() if self.main else None)
        return results[0]  # type: ignore[no-any-return]

    def _gathered(self, item: tuple[Any, Any]) -> list[tuple[Any, Any]]:
        from accelerate.utils import gather_object

        try:
            found: list[tuple[Any, Any]] = gather_object([item])
        except RuntimeError as error:
            # That is how torch.distributed tells that a connection broke, or that nobody came in time.
            reason = str(error).strip().splitlines()
            raise SithError(
                f"another of the {self.number} processes of this run ended, or did not answer for {PART_TIMEOUT} "
                f"({reason[-1][:200] if reason else type(error).__name__}): see what it said, free memory if it was "
                "killed, and start the same command again; nothing was left half-written"
            ) from None
        return found


ALONE = Processes()


def launched() -> int:
    """How many processes a launcher says that it started; 1 without one."""
    return max(_from_environment(_SIZES, 1), 1)


def join() -> Processes:
    """The processes that this one was started with, once all of them have met. Alone, nothing is imported.

    Raises:
        InputError: they are fewer than the launcher says.
        SithError: they do not find each other.
    """
    wanted = launched()
    if wanted == 1:
        return ALONE
    import torch
    from accelerate import PartialState

    try:
        # Without an accelerator, processes find each other only when told that they are on the CPU.
        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PART_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise SithError(f"the {wanted} processes of this run do not find each other ({error})") from None
    if state.num_processes != wanted:
        raise InputError(
            f"the launcher started {wanted} processes, and accelerate sees {state.num_processes}: use torchrun "
            f"--nproc_per_node {wanted}"
        )
    _leave_together(state.is_main_process)
    return Processes(state.num_processes, state.process_index)


def device_of_this_process() -> torch.device:
    """A GPU that can compute in float64, where there is one (that which :func:`join` has given it); else the CPU."""
    import torch

    # What MPS lacks is float64.
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def quiet_others() -> None:
    """In every process but the main one, print nothing from now on, but for the traceback of what nobody expected."""
    if launched() == 1 or _from_environment(_RANKS, 0) == 0:
        return
    kept = os.fdopen(os.dup(2), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)
    os.close(silence)

    def loud(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        traceback.print_exception(kind, error, trace, file=kept)
        kept.flush()

    sys.excepthook = loud


@cache
def _leave_together(main: bool) -> None:
    """Let no process end before the main one has said how it ended: a launcher kills the rest when one fails."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=FAREWELL)
    except (RuntimeError, KeyError, ValueError):
        return

    def leave() -> None:
        with suppress(RuntimeError):
            if main:
                store.set("sith-hf/main-has-ended", "1")
            else:
                store.wait(["sith-hf/main-has-ended"], FAREWELL)

    atexit.register(leave)


def _from_environment(names: tuple[str, ...], default: int) -> int:
    for name in names:
        with suppress(ValueError):
            return int(os.environ.get(name, ""))
    return default


def _told(error: Exception) -> tuple[str | None, str]:
    """An error as another process can raise it: its class, where it is one of ours, and its message."""
    if isinstance(error, SithError):
        return type(error).__name__, str(error)
    return None, "".join(traceback.format_exception(error)).strip()


def _as_told(index: int, name: str | None, message: str) -> Exception:
    if name is None:
        return RuntimeError(f"process {index} failed:\n{message}")
    kind = getattr(errors, name, SithError)
    # A missing extra makes its message itself.
    return SithError(message) if kind is errors.MissingExtra else kind(message)
