"""The finished parts of a long job, in a folder beside its output: a run that was killed goes on where it stopped.

Each part is one file, written whole, under the checksum of its content, its name and everything that decides what is in
it. What does not fit its checksum is made again, so that nothing of another job, and nothing damaged, is mixed in.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sith_hf.core.distributed import SINGLE, Processes
from sith_hf.errors import InputError, OutputError, TemporaryError
from sith_hf.files.artifact import library_versions, write_whole

Part = dict[str, Tensor]

LOCK, FACTS, SUFFIX = "lock", "job.json", ".part"

_MARK = b"A work folder of sith-hf: finished parts of a run that has not ended yet. Deleting it gives them up.\n"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class ResumableJob:
    """Where a job keeps its finished parts, and with which other processes it shares the making of them.

    Example::

        with Work.beside("out/") as work:                  # out.work/ until the block ends well
            for name, part in work.parts("sums", {"data": "..."}, ["a", "b"], make):
                ...                                        # made now, or found there
            result.save_pretrained("out/")

    Attributes:
        folder: the work folder; None keeps nothing.
        processes: all of them must come to every call, with the same arguments.
    """

    folder: Path | None = None
    processes: Processes = SINGLE

    @classmethod
    @contextmanager
    def beside(
        cls, output: str | Path, processes: Processes = SINGLE, *, input_may_come_back: bool = False
    ) -> Iterator[ResumableJob]:
        """Work beside the folder ``output``, in ``OUTPUT.work``, which goes when the block ends well.

        When it is interrupted, its results cannot be written, or a failure was temporary (TemporaryError), the
        finished parts stay for the next run. What
        cannot be used (InputError) will not be given again, and the parts go, unless they are those of another run.

        Args:
            output: where the results will be.
            processes: all of them must come here.
            input_may_come_back: keep the parts even then, because the input is read from a place that may be out of
                reach for a while.

        Raises:
            InputError: another run works there, or what stands there is no work folder.
            OutputError: ``output`` is no folder, or a work folder could not be made beside it.
        """
        with ExitStack() as held:
            folder = processes.on_main(lambda: held.enter_context(_held(Path(output))))
            try:
                yield cls(folder, processes)
            except (_OtherRun, TemporaryError):
                raise
            except InputError:
                if processes.is_main and not input_may_come_back:
                    _removed(folder)
                raise
            processes.on_main(lambda: _removed(folder))

    def parts(
        self, step: str, facts: Mapping[str, Any], names: Sequence[str], make: Callable[[str], Part]
    ) -> Iterator[tuple[str, Part]]:
        """Every part of a job with its name: first those found in the work folder, then those made now.

        Processes share what is to be made, one part each at a time, and all get every part. With as many threads in
        each as one process alone would have, the parts have the same bits.

        Args:
            step: the name of the job, lower-case letters, digits and hyphens.
            facts: plain data that tells all that decides what is in the parts; the versions of libraries and the number
                of threads are added.
            names: the names of the parts.
            make: makes the part of a name.

        Raises:
            InputError: there are finished parts of a job with other facts.
            OutputError: a part could not be kept; those before it are.
        """
        processes, shelf = self.processes, self._shelf(step, facts)
        missing = []
        for name in names:
            found = None if shelf is None else processes.on_main(lambda name=name: shelf.get(name))  # type: ignore[misc]
            if found is None:
                missing.append(name)
            else:
                yield name, found
        for start in range(0, len(missing), processes.world_size):
            share = missing[start : start + processes.world_size]
            mine = share[processes.rank] if processes.rank < len(share) else None
            made = processes.all_gather(lambda mine=mine: None if mine is None else make(mine))  # type: ignore[misc]
            for name, part in zip(share, made, strict=False):
                assert part is not None
                if shelf is not None:
                    processes.on_main(lambda name=name, part=part: shelf.put(name, part))  # type: ignore[misc]
                yield name, part

    def pieces(
        self, step: str, facts: Mapping[str, Any], make: Callable[[Mapping[str, Part]], Iterator[tuple[str, Part]]]
    ) -> Iterator[tuple[str, Part]]:
        """The parts of a job whose number nobody knows beforehand: those found first, then those made now.

        Args:
            step, facts: as for :meth:`parts`.
            make: is told the parts that are there, and gives the others that are this process's to make, one by one.

        Raises:
            InputError, OutputError: as :meth:`parts` does.
        """
        processes, shelf = self.processes, self._shelf(step, facts)
        found: dict[str, Part] = {} if shelf is None else processes.on_main(shelf.all)
        yield from found.items()
        mine = make(found)
        while any(items := processes.all_gather(lambda: next(mine, None))):
            for item in items:
                if item is not None:
                    if shelf is not None:
                        processes.on_main(lambda item=item: shelf.put(*item))  # type: ignore[misc]
                    yield item

    def _shelf(self, step: str, facts: Mapping[str, Any]) -> _PartStore | None:
        if self.folder is None:
            return None
        # Sums are cut by the number of threads, so that last bits depend on it.
        settled = {"libraries": library_versions(), "threads (OMP_NUM_THREADS)": torch.get_num_threads()}
        shelf = _PartStore(self.folder / _named(step), _plain({**facts, **settled}))
        self.processes.on_main(shelf.check)
        return shelf


class _OtherRun(InputError):
    """The finished parts that are there belong to another run, and stay for it."""


@dataclass(frozen=True)
class _PartStore:
    """The parts of one job on disk; only the main process goes there."""

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
            return  # parts that nobody knows the job of fit only where their checksums do
        ours = json.loads(self.facts)
        if known == ours or not isinstance(known, dict):
            return
        differing = [key for key in sorted({*known, *ours}) if known.get(key) != ours.get(key)]
        raise _OtherRun(
            f"{self.folder.parent} holds finished parts of another run, which differs in {', '.join(differing)}: put "
            "that back and start that one again to end it, or delete the folder to give its parts up"
        )

    def get(self, name: str) -> Part | None:
        """A part that is there and whole, or None."""
        path = self._path(name)
        try:
            if not path.is_file():
                return None
            content = path.read_bytes()
            if content[:32] != self._digest(name, content[32:]):
                return None
            return load(content[32:])
        except (OSError, SafetensorError, ValueError, KeyError):
            return None

    def all(self) -> dict[str, Part]:
        """Every part that is there and whole, by name, in the order of the names."""
        names = sorted(path.stem for path in self.folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.stem))
        return {name: part for name in names if (part := self.get(name)) is not None}

    def put(self, name: str, part: Part) -> None:
        """Keep a part. Raises OutputError."""
        content = save({key: tensor.detach().cpu().contiguous() for key, tensor in part.items()})
        try:
            facts, known = self.folder / FACTS, self.facts.encode("ascii")
            # Other facts than ours are those of a job without parts, or check had raised.
            if not facts.is_file() or facts.read_bytes() != known:
                write_whole(facts, known)
            write_whole(self._path(name), self._digest(name, content) + content)
        except OSError as error:
            raise OutputError(
                f"{error}. The parts that were finished before are kept in {self.folder.parent}: make room and start "
                "the same command again"
            ) from None

    def _path(self, name: str) -> Path:
        return self.folder / f"{_named(name)}{SUFFIX}"

    def _digest(self, name: str, content: bytes) -> bytes:
        digest = hashlib.sha256(f"{self.folder.name}\0{name}\0{self.facts}\0".encode())
        digest.update(content)
        return digest.digest()


@contextmanager
def _held(output: Path) -> Iterator[Path]:
    """A work folder that no other run can have meanwhile. Without finished parts in it, it goes in the end."""
    made: list[Path] = []
    descriptor: int | None = None
    try:
        output = output.resolve()
        folder = output.with_name(f"{output.name}.work")
        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"{output} is a file")
        if output.is_dir() and not os.access(output, os.W_OK | os.X_OK):
            # Told now, and not when hours of work are to be written there.
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is where finished parts would be kept, and is a file: move it away")
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / LOCK).exists() and any(folder.iterdir()):
            raise InputError(f"{folder} is where finished parts would be kept, and holds something else: move it away")
        descriptor = _lock(folder)
        _swept(folder, output)
    except (OSError, ValueError, RuntimeError) as error:
        if descriptor is not None:
            os.close(descriptor)
        _unmade(made)
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{output} could not be written ({reason}); nothing was changed there") from None
    try:
        yield folder
    finally:
        if not any(folder.glob(f"*/*{SUFFIX}")):
            _removed(folder)
            _unmade(made)
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """An open lock file that this process holds until it closes it, or dies. Raises InputError where another has it."""
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, there = os.fstat(descriptor), None
            with suppress(FileNotFoundError):
                there = os.stat(folder / LOCK)
            # The run that had it may have ended in between, and taken the file with it.
            if there is not None and (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
                found = os.pread(descriptor, len(_MARK) + 1, 0)
                if found != _MARK and (not _MARK.startswith(found) or len(list(folder.iterdir())) > 1):
                    raise InputError(
                        f"{folder} is where finished parts would be kept, and holds something else: move it away"
                    )
                os.pwrite(descriptor, _MARK, 0)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"another run is at work in {folder}: let it end, or give this one another output"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        folder.mkdir(parents=True, exist_ok=True)


def _swept(folder: Path, output: Path) -> None:
    """Take away what a run that was killed had half written, here and in its output. No other run has both."""
    # As tempfile names them for artifacts.write_whole and staged.
    for path in [*folder.glob("*/.*.partial"), *output.glob(".*.????????.partial")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _removed(folder: Path | None) -> None:
    """Take away what is ours in a work folder, and the folder itself unless something else is in it."""
    if folder is None:
        return
    with suppress(OSError):
        for pattern in (f"*/*{SUFFIX}", "*/.*.partial", f"*/{FACTS}"):
            for path in folder.glob(pattern):
                path.unlink()
        for path in folder.iterdir():
            if path.is_dir():
                path.rmdir()
        (folder / LOCK).unlink()
        folder.rmdir()


def _unmade(folders: Sequence[Path]) -> None:
    """Take away folders that were made, innermost first, as far as nothing is in them."""
    with suppress(OSError):
        for folder in folders:
            if folder.exists():
                folder.rmdir()


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a job or part")
    return name


def _plain(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False)
