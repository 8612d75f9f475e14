"""Rows of a dataset, from the Hub or from this machine, with named columns and pictures that are not decoded yet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sith_hf.cards import impersonal, shown_name
from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.images.dataset_settings import DatasetSettings

_FILES = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A dataset that was opened.

    Attributes:
        data: what was asked for.
        title: what results call it; no local folder.
        split: its split; empty where it has none.
        rows: the ``datasets.Dataset`` or ``IterableDataset``.
        columns: the names it has.
    """

    data: DatasetSettings
    title: str
    split: str
    rows: Any = field(repr=False)
    columns: tuple[str, ...]

    def names_of(self, column: str) -> tuple[str, ...] | None:
        """The names of a class label's values, or None for a column of another kind."""
        feature = (self.rows.features or {}).get(column)
        names = getattr(feature, "names", None)
        return None if names is None else tuple(str(name) for name in names)

    def text_of(self, column: str, value: Any) -> str | None:
        """A label, group or other plain value as text: by its name where the column has names; None for none."""
        names = self.names_of(column)
        if value is None or (isinstance(value, float) and value != value):
            return None
        if names is not None and isinstance(value, int):
            return names[value] if 0 <= value < len(names) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value)

    def check(self, columns: Iterable[str]) -> None:
        """Raises InputError where the dataset lacks one of ``columns``; the message lists those that are there."""
        missing = [name for name in dict.fromkeys(columns) if name not in self.columns]
        if missing:
            raise InputError(
                f"{self.title} has no column {', '.join(missing)}; it has {', '.join(self.columns)}: name the right "
                "ones under columns (--columns image=...,label=... on the command line, --column for image-mean)"
            )

    def read(self, columns: Sequence[str], pictures: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """The rows that were asked for, in order.

        Args:
            columns: what to read.
            pictures: those of them that hold pictures, which come undecoded.

        Raises:
            InputError: a column that is not there, or rows that cannot be read.
        """
        from datasets import Image

        where = {
            key: {str(item) for item in (value if isinstance(value, tuple) else (value,))}
            for key, value in self.data.where.items()
        }
        wanted = list(dict.fromkeys([*columns, *pictures, *where]))
        self.check(wanted)
        try:
            rows = self.rows.select_columns(wanted)
            features = self.rows.features or {}
            for name in pictures:
                if isinstance(features.get(name), Image):
                    rows = rows.cast_column(name, Image(decode=False))
            taken = 0
            for row in rows:
                if self.data.limit is not None and taken >= self.data.limit:
                    return
                if all(self.text_of(key, row[key]) in values for key, values in where.items()):
                    taken += 1
                    yield row
        except InputError:
            raise
        except (OSError, ValueError, TypeError, RuntimeError, KeyError, EOFError) as error:
            raise InputError(f"{self.title}: its rows cannot be read ({_one_line(error)})") from None

    @property
    def known_length(self) -> int | None:
        """How many rows there are at most, where that is known."""
        try:
            count = len(self.rows)
        except (TypeError, NotImplementedError):
            return self.data.limit
        return count if self.data.limit is None else min(count, self.data.limit)


def open_dataset(data: DatasetSettings, *, progress: bool = False) -> ImageDataset:
    """Open a dataset, or draw one; with ``progress``, ``datasets`` shows its bars on stderr.

    Raises:
        InputError: not found, offline and not on this machine, no such split, or nothing that ``datasets`` reads.
    """
    if data.world is not None and data.seed is not None and data.pictures is not None:
        from sith_hf.world import world_dataset

        rows = world_dataset(data.world, data.seed, data.pictures)
        return _source(data, f"drawn world: {data.world}, seed {data.seed}", "", rows)

    from datasets.exceptions import DatasetsError

    name = str(data.dataset)
    local = os.path.exists(name)
    title = shown_name(name) if local else sanitize(impersonal(name))
    try:
        with nullcontext() if progress else _quiet():
            rows = _local(data, Path(name)) if local else _remote(data)
    except InputError:
        raise
    except (DatasetsError, OSError, ValueError, TypeError, LookupError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{title}: no dataset could be opened there ({_one_line(error)}); give the id of a dataset on the Hub, "
            "a folder with one folder of images for each class, a folder of Parquet files, or one of save_to_disk"
        ) from None
    split, rows = _split(data, rows, title)
    return _source(data, title, split, rows)


@contextmanager
def _quiet() -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _source(data: DatasetSettings, title: str, split: str, rows: Any) -> ImageDataset:
    columns = rows.column_names
    if columns is None:
        # A stream knows its columns from its first row.
        first = next(iter(rows), None)
        if first is None:
            raise InputError(f"{title} has no rows")
        columns = list(first)
    return ImageDataset(data, title, split, rows, tuple(columns))


def _local(data: DatasetSettings, path: Path) -> Any:
    import datasets

    if data.revision is not None:
        raise InputError(f"{shown_name(str(path))} is on this machine and has no revisions; leave revision out")
    if path.is_file():
        if path.suffix.lower() not in _FILES:
            raise InputError(f"{path.name} is not a file of {', '.join(_FILES)}")
        kind = _FILES[path.suffix.lower()]
        return datasets.load_dataset(kind, data_files=str(path), streaming=data.streaming)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(str(path))
        if not data.streaming:
            return saved
        if isinstance(saved, datasets.DatasetDict):
            return datasets.IterableDatasetDict({key: value.to_iterable_dataset() for key, value in saved.items()})
        return saved.to_iterable_dataset()
    return datasets.load_dataset(str(path), data.name, streaming=data.streaming)


def _remote(data: DatasetSettings) -> Any:
    import datasets

    if data.split is None and not data.streaming:
        # Where there are several, none is fetched before one is named.
        try:
            names = datasets.get_dataset_split_names(data.dataset, data.name, revision=data.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError):
            names = []  # offline, or refused: what follows says so, or finds the copy on this machine
        _one_of(names, sanitize(impersonal(str(data.dataset))))
    return datasets.load_dataset(
        data.dataset, data.name, split=data.split, revision=data.revision, streaming=data.streaming
    )


def _split(data: DatasetSettings, rows: Any, title: str) -> tuple[str, Any]:
    if not isinstance(rows, Mapping):
        return data.split or "", rows
    if data.split is not None:
        if data.split not in rows:
            raise InputError(f"{title} has no split {data.split}; it has {', '.join(map(str, rows))}")
        return data.split, rows[data.split]
    _one_of(list(rows), title)
    ((name, only),) = rows.items()
    return str(name), only


def _one_of(splits: Sequence[str], title: str) -> None:
    if len(splits) > 1:
        raise InputError(f"{title} has the splits {', '.join(map(str, splits))}: name one with split (--split)")


def _one_line(error: BaseException) -> str:
    return sanitize(impersonal(" ".join(str(error).split())), 300) or type(error).__name__
