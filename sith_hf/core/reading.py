"""Read a file that the user or a repository names: regular files only, up to a limit, and say why it failed."""

from __future__ import annotations

import errno
import json
import os
import stat
from io import FileIO
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError

LFS_POINTER = "it is a git-lfs pointer and not the file itself: run `git lfs pull`, or download it again"
# Configurations, cards and results. The largest known index of shards has 3 MB.
MAX_TEXT = 20_000_000
# The largest tokenizer.json on the Hub has about 35 MB.
_MAX_JSON = 256 * 2**20


def is_lfs_pointer(start: bytes) -> bool:
    """Return whether a file that begins with ``start`` is what git leaves in place of a large file."""
    return start.startswith(b"version https://git-lfs")


def reason(error: Exception) -> object:
    """Return the system's reason for an error without the path, or the error itself."""
    return getattr(error, "strerror", None) or error


def open_regular(path: str | Path) -> FileIO:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device: those might never end, and opening a pipe
            waits for its other end.
        ValueError: a path that no file can have.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return FileIO(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, limit: int = MAX_TEXT) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        OSError: as for :func:`open_regular`, or more than ``limit`` bytes; no more than these are read.
        ValueError: a path that no file can have.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        parts, count = [], 0
        # A file under /proc has the size 0, and another may grow.
        while size <= limit >= count and (part := file.read(min(max(size, 1 << 16), limit) + 1)):
            parts.append(part)
            count += len(part)
    if max(size, count) > limit:
        raise OSError(errno.EFBIG, f"more than {limit:,} bytes", str(path))
    return b"".join(parts)


def read_text(path: str | Path, limit: int = MAX_TEXT) -> str:
    """Return the text of a UTF-8 file. Raises as for :func:`read_bytes`, and ValueError for other bytes."""
    return read_bytes(path, limit).decode("utf-8")


def read_start(path: str | Path, count: int) -> bytes:
    """Return the first ``count`` bytes of a regular file, fewer if it has fewer. Raises as for :func:`open_regular`."""
    with open_regular(path) as file:
        return file.read(count)


def read_input(path: Path, what: str, advice: str, limit: int) -> bytes:
    """Return the bytes of a regular file that the user names.

    Args:
        path: the file.
        what: its contents, for messages, such as "the prompt".
        advice: the next step if the file does not exist.
        limit: the largest number of bytes that is accepted.

    Raises:
        InputError: the file does not exist, cannot be read or is larger.
    """
    name = sanitize(str(path))
    try:
        return read_bytes(path, limit)
    except IsADirectoryError:
        raise InputError(f"{name} is a folder; {advice}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{name}: no such file; {advice}") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise InputError(f"{name}: {what} may have at most {limit:,} bytes") from None
        raise InputError(f"{name}: {what} could not be read ({reason(error)})") from None


def read_text_input(path: Path, what: str, advice: str, limit: int) -> str:
    """Return the text of a UTF-8 file; arguments and errors as for :func:`read_input`."""
    try:
        return read_input(path, what, advice, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{sanitize(str(path))}: {what} is not UTF-8; save it as UTF-8") from None


def json_fields(path: Path, limit: int = MAX_TEXT) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint; an empty one if there is none that can be read."""
    try:
        found = json.loads(read_bytes(path, limit))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_json_object(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint.

    Args:
        path: the file.
        advice: the next step if the file is missing or damaged.

    Raises:
        InputError: the file is missing, cannot be read, is a git-lfs pointer, or holds no JSON object.
    """
    raw, name = read_input(path, "it", advice, _MAX_JSON), sanitize(str(path), 300)
    if is_lfs_pointer(raw):
        raise InputError(f"{name}: {LFS_POINTER}")
    if not raw.strip():
        raise InputError(f"{name}: it is empty; {advice}")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: it is not JSON ({sanitize(str(error))}); {advice}") from None
    if not isinstance(found, dict):
        raise InputError(f"{name}: it holds no JSON object ({type(found).__name__}); {advice}")
    return found
