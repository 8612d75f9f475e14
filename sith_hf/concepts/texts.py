"""Texts of concepts: reading files and datasets, normalising, removing duplicates."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sith_hf.core.reading import LFS_POINTER, is_lfs_pointer, read_bytes, reason
from sith_hf.data import columns_of, dataset_errors, no_column, open_rows
from sith_hf.errors import InputError

MAX_CHARACTERS = 1000
MAX_BYTES = 2**29


def distinct(given: Iterable[object]) -> tuple[tuple[str, ...], tuple[int, ...], int]:
    """Normalise texts and remove blank and repeated ones, ignoring case.

    Returns:
        the remaining texts, their indices in ``given``, and the number of blank texts.

    Raises:
        InputError: an item that is not a text or is longer than 1000 characters, or fewer than two texts left.
    """
    kept: dict[str, tuple[int, str]] = {}
    blank = 0
    for number, text in enumerate(given):
        if not isinstance(text, str):
            raise InputError(f"concept {number + 1} must be a text; got {type(text).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"concept {number + 1} cannot be written as UTF-8: it has half of a surrogate pair")
        if len(text) > MAX_CHARACTERS:
            raise InputError(f"concept {number + 1} has {len(text)} characters; the limit is {MAX_CHARACTERS}")
        clean = tidy(text)
        if clean:
            kept.setdefault(clean.casefold(), (number, clean))
        else:
            blank += 1
    if len(kept) < 2:
        raise InputError(f"a dictionary needs at least two different concepts; got {len(kept)}")
    return tuple(clean for _, clean in kept.values()), tuple(number for number, _ in kept.values()), blank


def lines_of(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 text file, counted as ``str.splitlines`` counts them.

    So the indices in published decompositions, whose authors count so, are indices of this list.

    Raises:
        InputError: a file that cannot be read, or has over 512 MB.
    """
    try:
        raw = read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the concepts could not be read ({reason(error)})") from None
    if is_lfs_pointer(raw):
        raise InputError(f"{path}: {LFS_POINTER}")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8: save the file as UTF-8, one concept per line") from None


def column_of(
    dataset: Any, column: str, split: str | None, revision: str | None, config: str | None
) -> tuple[str, list[Any]]:
    """Read a column of a ``datasets.Dataset``, or of a dataset by its name (:func:`sith_hf.data.open_rows`).

    Returns:
        the dataset's name for messages, and the values: the names of a ``ClassLabel`` column, and "" for missing ones.

    Raises:
        InputError: the dataset or column does not exist or cannot be read.
    """
    if isinstance(dataset, (str, Path)):
        found = open_rows(str(dataset), config=config, split=split, revision=revision, preferred="train")
        title, rows, columns = found.title, found.rows, found.columns
    elif not hasattr(dataset, "select_columns") or isinstance(dataset, Mapping):
        raise InputError(
            "dataset must be a datasets.Dataset or a name for load_dataset. Choose one split of a DatasetDict"
        )
    else:
        title, rows = "the dataset", dataset
        columns = columns_of(rows, title)
    if column not in columns:
        raise no_column(title, column, columns, "Name one with column (--column)")
    names = getattr((rows.features or {}).get(column), "names", None)
    with dataset_errors(title):
        chosen = rows.select_columns([column]).with_format(None)
        # A stream has no length; reading a column at once is ten times as fast.
        values = list(chosen[:][column]) if hasattr(chosen, "__len__") else [row[column] for row in chosen]
    if names is not None:
        values = [names[value] if isinstance(value, int) and 0 <= value < len(names) else None for value in values]
    # CSV and Parquet have two ways to write that there is no value.
    return title, ["" if value is None or value != value else value for value in values]


def tidy(text: str) -> str:
    """Normalise a concept: trimmed, single spaces, composed accents (NFC)."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def position(texts: Sequence[str], concept: str) -> int | None:
    """Return the index of ``concept`` in ``texts``, ignoring case, or None. Raises InputError for a blank concept."""
    if not isinstance(concept, str) or not tidy(concept):
        raise InputError(f"a concept must be a text that is not blank; got {concept!r}")
    wanted = tidy(concept).casefold()
    return next((index for index, text in enumerate(texts) if text.casefold() == wanted), None)
