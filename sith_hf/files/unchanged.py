"""Read and copy a file that must not change meanwhile, a bounded piece at a time.

Files are read, not mapped into memory: a page of a map counts as this process's memory until the map goes, and a map
of a file that somebody cuts short ends the process.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from sith_hf.errors import InputError

# Between two of these stretches of a copy within the kernel, Ctrl-C is heard.
_STRETCH = 256 * 2**20
# Small enough to be in the processor's cache still when it is written.
_PIECE = 2**18
# Where the kernel cannot copy between these two files by itself.
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)


class Stamp(NamedTuple):
    """By what a change of a file is noticed: which file it is, its size, and the time of its last change."""

    device: int
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, file: FileIO) -> Stamp:
        """The stamp of an open file."""
        found = os.fstat(file.fileno())
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class UnchangedFile:
    """A file as it was when it was first looked at. Every method raises InputError where it is no longer that.

    Attributes:
        path: where it is.
        stamp: what it was then.
    """

    path: Path
    stamp: Stamp

    def pieces(self, start: int, stop: int, size: int) -> Iterator[bytes]:
        """The bytes from ``start`` to ``stop``, up to ``size`` of them at a time."""
        with self._opened() as file:
            file.seek(start)
            while start < stop:
                piece = file.read(min(size, stop - start))
                start += self._some(len(piece))
                yield piece

    def fill(self, buffer: Any, start: int) -> None:
        """Read from ``start`` on until ``buffer`` is full."""
        left = memoryview(buffer)
        with self._opened() as file:
            file.seek(start)
            while len(left):
                left = left[self._some(file.readinto(left)) :]

    def copy_into(self, target: FileIO, start: int = 0) -> None:
        """Append the bytes from ``start`` to the end to ``target``.

        They go from file to file inside the kernel where it can do that; file systems that share blocks then share
        them.
        """
        left, fast = self.stamp.size - start, True
        with self._opened() as source:
            source.seek(start)
            while left:
                done = _kernel_copy(source, target, min(left, _STRETCH)) if fast else 0
                if not done:
                    fast = False
                    piece = source.read(min(_PIECE, left))
                    done = self._some(len(piece))
                    write_all(target, piece)
                left -= done

    @contextmanager
    def _opened(self) -> Iterator[FileIO]:
        try:
            file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read any more ({error.strerror}): fetch it again") from None
        with file:
            self._check(file)
            yield file
            self._check(file)

    def _check(self, file: FileIO) -> None:
        if Stamp.of(file) != self.stamp:
            raise InputError(f"{self.path} changed while it was being read: start again when nothing writes to it")

    def _some(self, count: int | None) -> int:
        if not count:
            raise InputError(f"{self.path} was cut short while it was being read: fetch it again")
        return count


def write_all(file: FileIO, content: Any) -> None:
    """Write the whole of a buffer, of which an unbuffered file may take a part at a time."""
    left = memoryview(content)
    while len(left):
        left = left[file.write(left) :]


def _kernel_copy(source: FileIO, target: FileIO, count: int) -> int:
    """Up to ``count`` bytes from where one file stands to where the other does; 0 where the kernel cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), count)
    except OSError as error:
        if error.errno in _NO_KERNEL_COPY:
            return 0
        raise
