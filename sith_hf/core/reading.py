"""Read a file that a user names."""

from __future__ import annotations

from pathlib import Path

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError


def read_input(path: Path, what: str, advice: str, limit: int) -> bytes:
    """Return the bytes of a regular file; a pipe or a device would be read for ever.

    Args:
        path: the file.
        what: it holds, for messages, such as "the prompt".
        advice: what to do if there is no such file.
        limit: the most bytes that such a file may have.

    Raises:
        InputError: no such file, one that cannot be read, or a larger one.
    """
    data, name = None, sanitize(str(path))
    try:
        if path.is_file():
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}: {what} could not be read ({reason})") from None
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
