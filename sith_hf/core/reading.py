"""Read a file that the user names, and say why it could not be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError

LFS_POINTER = "it is a git-lfs pointer and not the file itself: run `git lfs pull`, or download it again"
# The largest tokenizer.json on the Hub has about 35 MB.
_MAX_JSON = 256 * 2**20


def is_lfs_pointer(start: bytes) -> bool:
    """Return whether a file that begins with ``start`` is what git leaves in place of a large file."""
    return start.startswith(b"version https://git-lfs")


def reason(error: Exception) -> object:
    """Return the system's reason for an error without the path, or the error itself."""
    return getattr(error, "strerror", None) or error


def read_input(path: Path, what: str, advice: str, limit: int) -> bytes:
    """Return the bytes of a regular file; a pipe or a device might never end.

    Args:
        path: the file.
        what: its contents, for messages, such as "the prompt".
        advice: the next step if the file does not exist.
        limit: the largest number of bytes that is accepted.

    Raises:
        InputError: the file does not exist, cannot be read or is larger.
    """
    data, name = None, sanitize(str(path))
    try:
        if path.is_file():
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {what} could not be read ({reason(error)})") from None
    if data is None:
        raise InputError(f"{name}: no such file; {advice}")
    if len(data) > limit:
        raise InputError(f"{name}: {what} may have at most {limit:,} bytes")
    return data


def read_text_input(path: Path, what: str, advice: str, limit: int) -> str:
    """Return the text of a UTF-8 file; arguments and errors as for :func:`read_input`."""
    try:
        return read_input(path, what, advice, limit).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{sanitize(str(path))}: {what} is not UTF-8; save it as UTF-8") from None


def read_json_object(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object in a file of a checkpoint.

    Args:
        path: the file.
        advice: the next step if the file is missing or damaged.

    Raises:
        InputError: the file is missing, is a git-lfs pointer, or holds no JSON object.
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
