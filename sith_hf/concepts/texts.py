"""Texts of concepts: reading files and datasets, normalising, removing duplicates."""

from __future__ import annotations

import codecs
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sith_hf.core.reading import LFS_POINTER, is_lfs_pointer, reason
from sith_hf.errors import InputError

MAX_CHARACTERS = 1000


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
        InputError: a file that cannot be read.
    """
    try:
        raw = Path(path).read_bytes()
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


def column_of(dataset: Any, column: str, split: str, revision: str | None) -> list[Any]:
    """Return a column of a ``datasets.Dataset``, or of a name or folder for ``load_dataset``.

    Raises:
        InputError: the dataset or column does not exist.
    """
    if isinstance(dataset, (str, Path)):
        import datasets

        try:
            # Without "./", datasets takes a folder named csv or text for one of its own loaders.
            name = os.path.join(".", dataset) if os.path.isdir(dataset) else str(dataset)
            dataset = datasets.load_dataset(name, split=split, revision=revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"dataset {dataset}: could not be loaded ({first_line})") from None
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list):
        raise InputError(
            "dataset must be a datasets.Dataset or a name for load_dataset. Choose one split of a DatasetDict"
        )
    if column not in columns:
        raise InputError(f"the dataset has no column {column!r}: its columns are {', '.join(columns)}")
    return list(dataset[column])


def tidy(text: str) -> str:
    """Normalise a concept: trimmed, single spaces, composed accents (NFC)."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def position(texts: Sequence[str], concept: str) -> int | None:
    """Return the index of ``concept`` in ``texts``, ignoring case, or None. Raises InputError for a blank concept."""
    if not isinstance(concept, str) or not tidy(concept):
        raise InputError(f"a concept must be a text that is not blank; got {concept!r}")
    wanted = tidy(concept).casefold()
    return next((index for index, text in enumerate(texts) if text.casefold() == wanted), None)
