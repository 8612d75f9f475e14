"""The finished parts of a long job, in a folder beside its output: a run that was killed goes on where it stopped.

Each part is one file, written whole, with a checksum of everything that decides what is in it. A part that does not
have it is made again, so that nothing of another job, and nothing damaged, is mixed in.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, Timeout
from torch import Tensor

from sith_hf.core.distributed import SINGLE, Processes
from sith_hf.errors import InputError, OutputError, TemporaryError
from sith_hf.files.artifact import library_versions
from sith_hf.files.atomic import hold, made_parents, sweep, write_whole
from sith_hf.files.tensor_file import read_header, read_tensor, stated_checksums, tensor_checksum, write_tensors
from sith_hf.files.unchanged import Stamp, UnchangedFile

Part = dict[str, Tensor]

# A folder with this lock in it is a work folder of ours.
LOCK, FACTS, SUFFIX = ".sith-hf.lock", "job.json", ".part"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class ResumableJob:
    """Where a job keeps its finished parts, and with which other processes it shares the making of them.

    Example::

        with ResumableJob.beside("out/") as job:                # out.work/ until the block ends well
            for name, part in job.parts("sums", {"data": "..."}, ["a", "b"], make):
                ...                                             # made now, or found there
            result.save_pretrained("out/")

    Attributes:
        folder: the work folder; None keeps nothing.
        processes: all of them must come to every call, with the same arguments.
    """

    folder: Path | None = None
    processes: Processes = SINGLE

    @classmethod
    @contextmanager
    def beside(cls, output: str | Path, processes: Processes = SINGLE) -> Iterator[ResumableJob]:
        """Work beside the folder ``output``, in ``OUTPUT.work``, which is removed when the block ends well.

        Whatever else ends the block, the finished parts stay for the next run: a mistake in what follows them costs
        nothing. Only an input that :meth:`parts` finds unusable takes its parts with it.

        Args:
            output: where the results will be.
            processes: all of them must come here.

        Raises:
            InputError: another run works there, or what stands there is no work folder.
            OutputError: ``output`` is no folder, or a work folder could not be made beside it.
        """
        with ExitStack() as held:
            folder = processes.on_main(lambda: held.enter_context(_held(Path(output))))
            yield cls(folder, processes)
            processes.on_main(lambda: _removed(folder))

    def parts(
        self, step: str, facts: Mapping[str, Any], names: Sequence[str], make: Callable[[str], Part]
    ) -> Iterator[tuple[str, Part]]:
        """Yield every part of a job with its name: first those found in the work folder, then those made now.

        Processes share what is to be made, one part each at a time, and all get every part. With as many threads in
        each as one process alone would have, the parts have the same bits.

        Args:
            step: the name of the job, lower-case letters, digits and hyphens.
            facts: plain data with everything that decides what is in the parts; the versions of libraries and the
                number of threads are added.
            names: the names of the parts.
            make: makes the part of a name. Where it raises InputError, not TemporaryError, the input is unusable, and
                the parts of this step that were made from it are removed.

        Raises:
            InputError: there are finished parts of a job with other facts.
            OutputError: a part could not be kept; those before it are.
        """
        processes, store = self.processes, self._store(step, facts)
        missing = []
        for name in names:
            found = None if store is None else processes.on_main(lambda name=name: store.get(name))  # type: ignore[misc]
            if found is None:
                missing.append(name)
            else:
                yield name, found
        for start in range(0, len(missing), processes.world_size):
            share = missing[start : start + processes.world_size]
            mine = share[processes.rank] if processes.rank < len(share) else None
            try:
                made = processes.all_gather(lambda mine=mine: None if mine is None else make(mine))  # type: ignore[misc]
            except InputError as error:
                if store is not None and processes.is_main and not isinstance(error, TemporaryError):
                    store.clear()
                raise
            for name, part in zip(share, made, strict=False):
                assert part is not None
                if store is not None:
                    processes.on_main(lambda name=name, part=part: store.put(name, part))  # type: ignore[misc]
                yield name, part

    def pieces(
        self, step: str, facts: Mapping[str, Any], make: Callable[[Mapping[str, Part]], Iterator[tuple[str, Part]]]
    ) -> Iterator[tuple[str, Part]]:
        """Yield the parts of a job whose number is not known beforehand: those found first, then those made now.

        They stay even where ``make`` raises InputError: what it reads as it goes may be out of reach for a while.

        Args:
            step, facts: as for :meth:`parts`.
            make: takes the parts that are there, and yields the others that are this process's to make.

        Raises:
            InputError, OutputError: as :meth:`parts` does.
        """
        processes, store = self.processes, self._store(step, facts)
        found: dict[str, Part] = {} if store is None else processes.on_main(store.all)
        yield from found.items()
        mine = make(found)
        while any(items := processes.all_gather(lambda: next(mine, None))):
            for item in items:
                if item is not None:
                    if store is not None:
                        processes.on_main(lambda item=item: store.put(*item))  # type: ignore[misc]
                    yield item

    def _store(self, step: str, facts: Mapping[str, Any]) -> _PartStore | None:
        if self.folder is None:
            return None
        # Sums are cut by the number of threads, so that last bits depend on it.
        settled = {"libraries": library_versions(), "threads (OMP_NUM_THREADS)": torch.get_num_threads()}
        whole = json.dumps({**facts, **settled}, sort_keys=True, ensure_ascii=True, allow_nan=False)
        store = _PartStore(self.folder / _named(step), whole)
        self.processes.on_main(store.check)
        return store


@dataclass(frozen=True)
class _PartStore:
    """The parts of one step on disk; only the main process goes there."""

    folder: Path
    facts: str

    def check(self) -> None:
        """Raise InputError where parts of a job with other facts are."""
        path = self.folder / FACTS
        try:
            if not any(self.folder.glob(f"*{SUFFIX}")):
                return
            known = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return  # parts of an unknown job fit only where their marks do
        ours = json.loads(self.facts)
        if known == ours or not isinstance(known, dict):
            return
        differing = [key for key in sorted({*known, *ours}) if known.get(key) != ours.get(key)]
        raise InputError(
            f"{self.folder.parent} holds finished parts of another run, which differs in {', '.join(differing)}: put "
            "that back and start that one again to end it, or delete the folder to give its parts up"
        )

    def get(self, name: str) -> Part | None:
        """A part that is there and whole, or None."""
        try:
            with FileIO(path := self._path(name)) as file:
                header, source = read_header(file), UnchangedFile(path, Stamp.of(file))
                checksums = stated_checksums(header)
                if checksums is None or header.metadata.get("part") != self._mark(name):
                    return None
                found = {key: read_tensor(source, file, entry) for key, entry in header.entries.items()}
        except (OSError, ValueError, KeyError):
            return None
        return found if all(tensor_checksum(found[key]) == checksums[key] for key in found) else None

    def all(self) -> dict[str, Part]:
        """Every part that is there and whole, by name, in the order of the names."""
        names = sorted(path.stem for path in self.folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.stem))
        return {name: part for name in names if (part := self.get(name)) is not None}

    def put(self, name: str, part: Part) -> None:
        """Keep a part. Raises OutputError."""
        try:
            facts, known = self.folder / FACTS, self.facts.encode("ascii")
            # Other facts than ours are those of a job without parts, or check had raised.
            if not facts.is_file() or facts.read_bytes() != known:
                write_whole(facts, known)
            write_whole(self._path(name), lambda file: write_tensors(file, part, {"part": self._mark(name)}))
        except OSError as error:
            raise OutputError(
                f"{error}. The parts that were finished before are kept in {self.folder.parent}: make room and start "
                "the same command again"
            ) from None

    def clear(self) -> None:
        """Remove the parts, and what belongs to them."""
        with suppress(OSError):
            sweep(self.folder)
            for path in (*self.folder.glob(f"*{SUFFIX}"), self.folder / FACTS):
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{_named(name)}{SUFFIX}"

    def _mark(self, name: str) -> str:
        """A checksum of everything that decides what is in a part."""
        return hashlib.sha256(f"{self.folder.name}\0{name}\0{self.facts}".encode()).hexdigest()


@contextmanager
def _held(output: Path) -> Iterator[Path]:
    """A work folder that no other run can have meanwhile. Without finished parts in it, it is removed in the end."""
    try:
        output = output.resolve()
        folder = output.with_name(f"{output.name}.work")
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"{output} is a file")
        if output.is_dir() and not os.access(output, os.W_OK | os.X_OK):
            # Fail now, and not when hours of work are to be written there.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is for finished parts, and is a file: move it away")
    except (OSError, ValueError, RuntimeError) as error:
        raise _refused(output, error) from None
    with ExitStack() as held:
        try:
            held.enter_context(made_parents(folder / LOCK))
            if not (folder / LOCK).exists() and any(folder.iterdir()):
                raise InputError(f"{folder} is for finished parts, and holds something else: move it away")
            lock = hold(folder / LOCK)
            held.callback(_released, lock, folder)
            for place in (output.parent, output, *folder.iterdir()):
                sweep(place)
        except Timeout:
            raise InputError(f"{folder} is locked by another run: wait for its end, or use another output") from None
        except (OSError, ValueError) as error:
            raise _refused(output, error) from None
        try:
            yield folder
        finally:
            if not any(folder.glob(f"*/*{SUFFIX}")):
                _removed(folder)


def _released(lock: BaseFileLock, folder: Path) -> None:
    lock.release()
    if os.name == "nt" and not any(folder.glob(f"*/*{SUFFIX}")):
        _removed(folder)  # Windows removes no lock that is held, and none that another run holds by now


def _refused(output: Path, error: Exception) -> Exception:
    if isinstance(error, InputError):
        return error
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{output} could not be written ({reason}); nothing was changed there")


def _removed(folder: Path | None) -> None:
    """Remove what is ours in a work folder, and the folder itself unless something else is in it."""
    if folder is None:
        return
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                _PartStore(path, "").clear()
        (folder / LOCK).unlink()
        folder.rmdir()


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a job or part")
    return name
