"""Resumable jobs: finished parts are kept in a folder beside the output, and the next run continues from them.

Each part is a safetensors file, written whole, with checksums and the facts that determine its content. A part that is
damaged is made again; parts of another job are refused.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, Timeout
from torch import Tensor

from sith_hf.core.distributed import SINGLE, Processes
from sith_hf.errors import InputError, OutputError, TemporaryError
from sith_hf.files.artifact import library_versions
from sith_hf.files.atomic import hold, made_parents, sweep, write_whole, writing
from sith_hf.files.tensor_file import CHECKSUMS, TensorFile, write_tensors

Part = dict[str, Tensor]

_LOG = logging.getLogger(__name__)

# A folder with this lock in it is a work folder.
LOCK, SUFFIX = ".sith-hf.lock", ".part"


@contextmanager
def resumes_from(folder: Path | None, pattern: str) -> Iterator[None]:
    """Note on a KeyboardInterrupt of the block that the same command resumes, if ``folder`` has finished work.

    Args:
        folder: where the block keeps it, on the main process; None if it keeps nothing.
        pattern: of the files of finished work.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        if folder is not None and any(folder.rglob(pattern)):
            stopped.add_note(f"The same command resumes from where it stopped: {folder} has the finished parts.")
        raise


@dataclass(frozen=True)
class ResumableJob:
    """The folder where a job keeps its finished parts, and the processes that share the work.

    Example::

        with ResumableJob.beside("out/") as job:                # out.work/ until the block succeeds
            for name, part in job.parts("sums", {"data": "..."}, ["a", "b"], make):
                ...                                             # made now, or found there
            result.save_pretrained("out/")

    Attributes:
        folder: the work folder; None keeps nothing.
        processes: all of them must make every call, with the same arguments.
    """

    folder: Path | None = None
    processes: Processes = SINGLE

    @classmethod
    @contextmanager
    def beside(
        cls, output: str | Path, processes: Processes = SINGLE, *, is_file: bool = False
    ) -> Iterator[ResumableJob]:
        """Work beside ``output``, in ``OUTPUT.work``, which is removed when the block succeeds.

        If the block fails, the finished parts stay for the next run. Only parts whose input :meth:`parts` finds
        unusable are removed. Only the main process reads and writes there: the machines of the others need not see it.

        Args:
            output: the folder of the results.
            processes: all of them must make this call.
            is_file: ``output`` is a file of results.

        Raises:
            InputError: another run works there, or ``OUTPUT.work`` is something else.
            OutputError: ``output`` is not a folder (or not a file), or a work folder could not be made beside it.
        """
        with ExitStack() as held:
            folder = processes.on_main(lambda: held.enter_context(_held(Path(output), is_file)))
            with resumes_from(folder, f"*{SUFFIX}"):
                yield cls(folder, processes)
            processes.on_main(lambda: None if folder is None else _remove(folder))

    def parts(
        self, step: str, facts: Mapping[str, Any], names: Sequence[str], make: Callable[[str], Part]
    ) -> Iterator[tuple[str, Part]]:
        """Yield every part of a job with its name: first those found in the work folder, then those made now.

        Processes share the missing parts, one each at a time, and all get every part. If each has as many threads as
        a single process would have, the parts have the same bits.

        Args:
            step: the name of the job; it becomes a folder's name.
            facts: plain data with everything that determines the content of the parts; the versions of libraries and
                the number of threads are added.
            names: the names of the parts, which become names of files.
            make: makes the part of a name. If it raises InputError (but not TemporaryError), the input is unusable,
                and the parts of this step that were made from it are removed.

        Raises:
            InputError: there are finished parts of a job with other facts.
            OutputError: a part could not be kept; those before it are.
        """
        processes, store = self.processes, self._store(step, facts)
        missing = []
        for name in names:
            found = None if store is None else processes.on_main(partial(store.get, name))
            if found is None:
                missing.append(name)
            else:
                yield name, found
        _LOG.debug("%s: %s of %s parts are left to do", step, len(missing), len(names))
        try:
            mine = missing[processes.rank :: processes.world_size]
            yield from self._made(store, ((name, make(name)) for name in mine))
        except InputError as error:
            if store is not None and processes.is_main and not isinstance(error, TemporaryError):
                store.clear()
            raise

    def pieces(
        self, step: str, facts: Mapping[str, Any], make: Callable[[Mapping[str, Part]], Iterator[tuple[str, Part]]]
    ) -> Iterator[tuple[str, Part]]:
        """Yield the parts of a job of unknown length: first those found, then those made now.

        They stay even if ``make`` raises InputError: its source may be unavailable only temporarily.

        Args:
            step, facts: as for :meth:`parts`.
            make: takes the parts that are there, and yields the others that this process must make.

        Raises:
            InputError, OutputError: as for :meth:`parts`.
        """
        store = self._store(step, facts)
        found: dict[str, Part] = {}
        for name in [] if store is None else self.processes.on_main(store.names):
            part = None if store is None else self.processes.on_main(partial(store.get, name))
            if part is not None:
                found[name] = part
                yield name, part
        yield from self._made(store, make(found))

    def _made(self, store: _PartStore | None, mine: Iterator[tuple[str, Part]]) -> Iterator[tuple[str, Part]]:
        """Make, keep and yield the parts of all processes, one of each at a time."""
        while any(items := self.processes.all_gather(lambda: next(mine, None))):
            for item in items:
                if item is not None:
                    if store is not None:
                        self.processes.on_main(partial(store.put, *item))
                    yield item

    def _store(self, step: str, facts: Mapping[str, Any]) -> _PartStore | None:
        if self.folder is None:
            return None
        # The number of threads decides the order of sums, so the last bits depend on it.
        settled = {"libraries": library_versions(), "threads (OMP_NUM_THREADS)": torch.get_num_threads()}
        whole = json.dumps({**facts, **settled}, sort_keys=True, ensure_ascii=True, allow_nan=False)
        self.processes.check_same(json.loads(whole))
        store = _PartStore(self.folder / step, whole)
        self.processes.on_main(store.check)
        return store


@dataclass(frozen=True)
class _PartStore:
    """The parts of one step on disk; only the main process reads and writes them."""

    folder: Path
    facts: str

    def check(self) -> None:
        """Raise InputError if there are parts of a job with other facts."""
        ours = json.loads(self.facts)
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with suppress(OSError, ValueError, KeyError), TensorFile.read(path) as (found, file):
                found.check_sums(file)
                known = json.loads(found.metadata["facts"])
                break
        else:
            return
        if known != ours:
            differing = [key for key in sorted({*known, *ours}) if known.get(key) != ours.get(key)]
            raise InputError(
                f"{self.folder.parent} holds finished parts of another run, which differs in {', '.join(differing)}: "
                "change that back to continue that run, or delete the folder with its parts"
            )

    def get(self, name: str) -> Part | None:
        """Return a part that is there and whole, or None."""
        path = self.folder / f"{name}{SUFFIX}"
        with suppress(OSError, ValueError, KeyError), TensorFile.read(path) as (found, file):
            found.check_sums(file)
            if found.metadata == {**self._metadata(name), CHECKSUMS: found.metadata[CHECKSUMS]}:
                return {key: found.tensor(file, key) for key in found.entries}
        return None

    def names(self) -> list[str]:
        """Return the names of the parts that are there, in order."""
        return sorted(path.stem for path in self.folder.glob(f"*{SUFFIX}"))

    def put(self, name: str, part: Part) -> None:
        """Keep a part. Raises OutputError."""
        try:
            path = self.folder / f"{name}{SUFFIX}"
            write_whole(path, lambda file: write_tensors(file, part, self._metadata(name)))
        except OutputError as error:
            raise OutputError(
                f"{error}. The finished parts are kept in {self.folder.parent}: free space and run the same command "
                "again"
            ) from None

    def clear(self) -> None:
        """Remove the parts."""
        with suppress(OSError):
            sweep(self.folder)
            for path in self.folder.glob(f"*{SUFFIX}"):
                path.unlink()
            (self.folder / "job.json").unlink(missing_ok=True)  # of earlier releases
            self.folder.rmdir()

    def _metadata(self, name: str) -> dict[str, str]:
        return {"step": self.folder.name, "part": name, "facts": self.facts}


@contextmanager
def _held(output: Path, is_file: bool) -> Iterator[Path]:
    """Lock a work folder for this run. Without finished parts in it, it is removed at the end."""
    with ExitStack() as held:
        with writing(output, (OSError, ValueError, RuntimeError)):
            output = output.resolve()
            folder = output.with_name(f"{output.name}.work")
            if output.exists() and output.is_dir() == is_file:
                what = "folder: name a file" if is_file else "file: name another folder"
                raise OSError(f"{output} is a {what}")
            if output.is_dir() and not os.access(output, os.W_OK | os.X_OK):
                # Fail before hours of work, not after.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if folder.exists() and not folder.is_dir():
                raise InputError(f"{folder} is needed for finished parts, but is a file: move it away")
            held.enter_context(made_parents(folder / LOCK))
            if not (folder / LOCK).exists() and any(folder.iterdir()):
                raise InputError(f"{folder} is needed for finished parts, but holds something else: move it away")
            try:
                lock = hold(folder / LOCK)
            except Timeout:
                raise InputError(f"{folder} is locked by another run: wait for it, or use another output") from None
            held.callback(_release, lock, folder)
            for place in (output.parent, output, *folder.iterdir()):
                sweep(place)
        try:
            yield folder
        finally:
            if not any(folder.glob(f"*/*{SUFFIX}")):
                _remove(folder)


def _release(lock: BaseFileLock, folder: Path) -> None:
    lock.release()
    if os.name == "nt" and not any(folder.glob(f"*/*{SUFFIX}")):
        _remove(folder)  # Windows cannot remove a held lock, this one before or that of another run now


def _remove(folder: Path) -> None:
    """Remove the parts and the lock from a work folder, and the folder itself unless it holds something else."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                _PartStore(path, "").clear()
        (folder / LOCK).unlink()
        folder.rmdir()
