"""The processes of one job, as ``torchrun`` and ``accelerate launch`` start them, or a single one.

World size and rank are those of ``torch.distributed``; rank 0 is the main process.
"""

from __future__ import annotations

import atexit
import copyreg
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from sith_hf.errors import InputError, MissingExtra, SithError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# The longest wait for another process to finish its part of a job. The main process alone asks judges and writes.
PART_TIMEOUT = timedelta(days=1)
# The longest wait of a finished process for the main one to end.
EXIT_TIMEOUT = timedelta(seconds=10)

# Environment variables of the launchers; accelerate's PartialState reads the same.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


@dataclass(frozen=True)
class Processes:
    """The processes that share a job; all must call its methods in the same order.

    Attributes:
        world_size: the number of processes.
        rank: the number of this process, from 0.
    """

    world_size: int = 1
    rank: int = 0

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0, the only process that prints and writes."""
        return self.rank == 0

    def all_gather(self, do: Callable[[], T]) -> list[T]:
        """Call ``do`` in every process and return all results, by rank. Results must be picklable.

        Raises:
            SithError: in every process, if ``do`` failed in one or a process is gone. The rank where ``do`` failed
                raises the original exception.
        """
        if self.world_size == 1:
            return [do()]
        from accelerate.utils import gather_object

        failure: Exception | None = None
        result: Any = None
        try:
            result = do()
        except Exception as error:
            failure = error
        try:
            found: list[Any] = gather_object([(failure and self._portable(failure), result)])
        except RuntimeError as error:
            # torch.distributed raises this for a broken connection and for a timeout.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise SithError(
                f"another of the {self.world_size} processes of this run ended or did not answer for {PART_TIMEOUT} "
                f"({lines[-1][:200]}). Read its output, free memory if it was killed, and start the same command "
                "again; no file is half-written"
            ) from None
        if failure is not None:
            raise failure
        for other, _ in found:
            if other is not None:
                raise other
        return [result for _, result in found]

    def on_main(self, do: Callable[[], T]) -> T:
        """Call ``do`` on rank 0 only and return its result in every process. Raises as :meth:`all_gather` does."""
        results: list[Any] = self.all_gather(lambda: do() if self.is_main else None)
        return results[0]  # type: ignore[no-any-return]

    def each(self, do: Callable[[], T]) -> T:
        """Call ``do`` in every process and return its own result; if it fails in one, all raise as for all_gather."""
        own: list[T] = []
        self.all_gather(lambda: own.append(do()))
        return own[0]

    def main_only(self, do: Callable[[], T]) -> T | None:
        """Call ``do`` on rank 0 only, and return its result there, None elsewhere. Raises as all_gather does."""
        return self.each(lambda: do() if self.is_main else None)

    def check_same(self, what: Mapping[str, Any]) -> None:
        """Raise InputError in every process unless all have the same facts.

        Args:
            what: plain data by name. Different data would end in a wrong result, or in processes that wait forever.
        """
        for rank, other in enumerate(self.all_gather(lambda: dict(what))):
            if differing := [key for key in sorted({*what, *other}) if what.get(key) != other.get(key)]:
                raise InputError(
                    f"the processes of this run have different inputs: {', '.join(differing)} of rank {rank} differ. "
                    "Give every machine the same releases, OMP_NUM_THREADS and files (a shared folder)"
                )

    def _portable(self, error: Exception) -> Exception:
        """Return an error that other processes can unpickle: a SithError, or RuntimeError with the traceback."""
        if isinstance(error, MissingExtra):  # composes its message from other arguments
            return SithError(str(error))
        if isinstance(error, SithError):
            return type(error)(str(error))
        return RuntimeError(f"rank {self.rank} failed:\n{''.join(traceback.format_exception(error)).strip()}")


SINGLE = Processes()


def launched_world_size() -> int:
    """Return the world size that a launcher set in the environment; 1 without one."""
    return max(_from_environment(_WORLD_SIZES, 1), 1)


def join_processes() -> Processes:
    """Connect to the other processes of the launcher, if any. A single process imports nothing.

    Raises:
        InputError: fewer processes than the launcher started.
        SithError: the processes cannot connect.
    """
    wanted = launched_world_size()
    if wanted == 1:
        return SINGLE
    import torch
    from accelerate import PartialState

    try:
        # Without an accelerator, cpu=True selects a backend that works there.
        state = PartialState(cpu=not torch.accelerator.is_available(), timeout=PART_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise SithError(f"the {wanted} processes cannot connect ({error}); check the launcher's options") from None
    if state.num_processes != wanted:
        raise InputError(
            f"the launcher started {wanted} processes, but accelerate sees {state.num_processes}: use torchrun "
            f"--nproc_per_node {wanted}"
        )
    # Results hold read-only mappings, which Python sends to no other process by itself.
    copyreg.pickle(MappingProxyType, _sent)
    _wait_for_main_at_exit(state.is_main_process)
    return Processes(state.num_processes, state.process_index)


def _sent(mapping: MappingProxyType[Any, Any]) -> tuple[Any, ...]:
    return _read_only, (dict(mapping),)


def _read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


def device_of_this_process() -> torch.device:
    """Return the current CUDA device, as :func:`join_processes` has set it, or the CPU without CUDA."""
    import torch

    # MPS has no float64.
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def launched_as_main() -> bool:
    """Return whether this process is rank 0 of its launcher, or was started without one."""
    return launched_world_size() == 1 or _from_environment(_RANKS, 0) == 0


def silence_other_ranks() -> None:
    """Silence stdout and stderr on every rank but 0; only tracebacks of unexpected errors still appear."""
    if launched_as_main():
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
def _wait_for_main_at_exit(is_main: bool) -> None:
    """Keep every process alive until rank 0 has ended: a launcher kills the rest when one of them fails."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=EXIT_TIMEOUT)
    except (RuntimeError, KeyError, ValueError):
        return

    def leave() -> None:
        with suppress(RuntimeError):
            if is_main:
                store.set("sith-hf/main-has-ended", "1")
            else:
                store.wait(["sith-hf/main-has-ended"], EXIT_TIMEOUT)

    atexit.register(leave)


def _from_environment(names: tuple[str, ...], default: int) -> int:
    for name in names:
        with suppress(ValueError):
            return int(os.environ.get(name, ""))
    return default
