"""Read and copy a file that must not change meanwhile, a bounded piece at a time.

Files are read, not mapped into memory: a page of a map counts as this process's memory until the map goes, and a map
of a file that another program truncates ends the process.
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

from sith_hf.errors import TemporaryError

# Between two of these stretches of a copy within the kernel, Ctrl-C is handled.
_STRETCH = 256 * 2**20
# Small enough to be in the processor's cache still when it is written.
_PIECE = 2**18
# The errors of a kernel that cannot copy between these two files.
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)


class Stamp(NamedTuple):
    """Which file it is, its size, and the time of its last change: a change of the file changes one of them."""

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
    """A file as it was when it was first opened. Every method raises TemporaryError after a change.

    Attributes:
        path: where it is.
        stamp: its stamp at that time.
    """

    path: Path
    stamp: Stamp

    def pieces(self, start: int, stop: int, size: int = _PIECE) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to ``stop``, up to ``size`` of them at a time."""
        with self.opened() as file:
            file.seek(start)
            while start < stop:
                piece = file.read(min(size, stop - start))
                start += self._some(len(piece))
                yield piece

    def fill(self, buffer: Any, start: int) -> None:
        """Read from ``start`` on until ``buffer`` is full."""
        with self.opened() as file:
            self.fill_from(file, buffer, start)

    def fill_from(self, file: FileIO, buffer: Any, start: int) -> None:
        """The same from a descriptor of :meth:`opened`, for several reads in a row."""
        left = memoryview(buffer)
        file.seek(start)
        while len(left):
            left = left[self._some(file.readinto(left)) :]

    def copy_into(self, target: FileIO, start: int = 0) -> None:
        """Append the bytes from ``start`` to the end to ``target``.

        The kernel copies them where it can; file systems that share blocks then share them.
        """
        left, fast = self.stamp.size - start, True
        with self.opened() as source:
            source.seek(start)
            while left:
                done = _kernel_copy(source, target, min(left, _STRETCH)) if fast else 0
                if not done:
                    fast = False
                    piece = source.read(min(_PIECE, left))
                    done = self._some(len(piece))
                    write_all(target, piece)
                left -= done

    def check(self) -> None:
        """Raise TemporaryError unless the file is what it was."""
        with self.opened():
            pass

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """Open the file, and compare its stamp before and after the block."""
        try:
            file = FileIO(self.path)
        except OSError as error:
            raise TemporaryError(f"{self.path} could not be read ({error.strerror}): fetch or make it again") from None
        with file:
            self._check(file)
            yield file
            self._check(file)

    def _check(self, file: FileIO) -> None:
        if Stamp.of(file) != self.stamp:
            raise TemporaryError(
                f"{self.path} changed while it was in use: start again, and leave it alone until the run has ended"
            )

    def _some(self, count: int | None) -> int:
        if not count:
            raise TemporaryError(f"{self.path} changed while it was in use, it ends early: fetch or make it again")
        return count


def write_all(file: FileIO, content: Any) -> None:
    """Write the whole of a buffer; one call of an unbuffered file may write a part of it."""
    left = memoryview(content)
    while len(left):
        left = left[file.write(left) :]


def _kernel_copy(source: FileIO, target: FileIO, count: int) -> int:
    """Copy up to ``count`` bytes between the positions of two files; 0 where the kernel cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), count)
    except OSError as error:
        if error.errno in _NO_KERNEL_COPY:
            return 0
        raise
