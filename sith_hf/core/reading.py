"""Read a file that a user names."""

from __future__ import annotations

from pathlib import Path

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
    data = None
    try:
        if path.is_file():
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {what} could not be read ({reason})") from None
    if data is None:
        raise InputError(f"{path}: no such file; {advice}")
    if len(data) > limit:
        raise InputError(f"{path}: {what} may have at most {limit:,} bytes")
    return data
