"""Read and copy a file that must not change meanwhile, a bounded piece at a time.

Files are read, not mapped into memory: mapped pages count as memory of this process, and a mapped file that another
program truncates kills it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from sith_hf.core.reading import open_regular
from sith_hf.errors import TemporaryError

# Ctrl-C is handled between two stretches of a copy within the kernel.
_STRETCH = 256 * 2**20
# A piece stays in the processor's cache until it is written or compared.
_PIECE = 2**18
# Errors of a kernel that cannot copy between the two files.
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)


@dataclass(frozen=True)
class UnchangedFile:
    """A file as it was when it was first opened. Methods raise TemporaryError if it has changed since.

    Attributes:
        path: its path.
        stamp: its :func:`stamp_of` at that time.
    """

    path: Path
    stamp: tuple[int, int, int, int]

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """Open the file again, and compare its stamp before and after the block."""
        try:
            file = open_regular(self.path)
        except OSError as error:
            raise TemporaryError(f"{self.path} could not be read ({error.strerror}): fetch or make it again") from None
        with file:
            self.check(file)
            yield file
            self.check(file)

    def fill(self, file: FileIO, buffer: Any, start: int) -> None:
        """Read from ``start`` in an open descriptor until ``buffer`` is full."""
        left = memoryview(buffer)
        file.seek(start)
        while len(left):
            left = left[self._some(file.readinto(left)) :]

    def pieces(self, file: FileIO, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to ``stop`` of an open descriptor, at most 256 KB at a time."""
        file.seek(start)
        while start < stop:
            piece = file.read(min(_PIECE, stop - start))
            start += self._some(len(piece))
            yield piece

    def copy_into(self, target: FileIO, start: int = 0) -> None:
        """Append the bytes from ``start`` to the end to ``target``.

        The kernel copies them if it can; on file systems that can share blocks, the copies share them.
        """
        size = self.stamp[2]
        with self.opened() as source:
            source.seek(start)
            while start < size and (done := _kernel_copy(source, target, min(size - start, _STRETCH))):
                start += done
            for piece in self.pieces(source, start, size):
                write_all(target, piece)

    def check(self, file: FileIO) -> None:
        """Raise TemporaryError unless an open descriptor has the stamp."""
        if stamp_of(file) != self.stamp:
            raise TemporaryError(f"{self.path} changed while it was in use: start again without changing it")

    def _some(self, count: int | None) -> int:
        if not count:
            raise TemporaryError(f"{self.path} was truncated while it was in use: fetch or make it again")
        return count


def write_all(file: FileIO, content: Any) -> None:
    """Write the whole of a buffer; one call of an unbuffered file may write only a part of it."""
    left = memoryview(content)
    while len(left):
        left = left[file.write(left) :]


def stamp_of(file: FileIO) -> tuple[int, int, int, int]:
    """Return device, inode, size in bytes and time of modification in nanoseconds of an open file."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _kernel_copy(source: FileIO, target: FileIO, count: int) -> int:
    """Copy up to ``count`` bytes between the positions of two files; return 0 if the kernel cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source.fileno(), target.fileno(), count)
    except OSError as error:
        if error.errno in _NO_KERNEL_COPY:
            return 0
        raise
