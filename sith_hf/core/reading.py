"""Read a file that the user names, and say why it could not be read."""

from __future__ import annotations

from pathlib import Path

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError


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
