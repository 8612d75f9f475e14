"""Open a dataset of images, on the Hub or on this machine, and read its rows with undecoded images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sith_hf.cards import impersonal, shown_name
from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.images.dataset_settings import DatasetSettings
from sith_hf.world import world_dataset

_FILES = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """An opened dataset of images.

    Attributes:
        data: the settings it was opened by.
        title: its name in results, without local folders.
        split: its split; empty if it has none.
        rows: the ``datasets.Dataset`` or ``IterableDataset``.
        columns: the names of its columns.
    """

    data: DatasetSettings
    title: str
    split: str
    rows: Any = field(repr=False)
    columns: tuple[str, ...]

    def names_of(self, column: str) -> tuple[str, ...] | None:
        """Return the names of a ``ClassLabel`` column's values, None for a column of another type."""
        names = getattr((self.rows.features or {}).get(column), "names", None)
        return None if names is None else tuple(str(name) for name in names)

    def text_of(self, column: str, value: Any) -> str | None:
        """Return a plain value as text, by its name in a ``ClassLabel`` column; None for a missing value."""
        names = self.names_of(column)
        if value is None or (isinstance(value, float) and value != value):
            return None
        if names is not None and isinstance(value, int):
            return names[value] if 0 <= value < len(names) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value)

    def check(self, columns: Iterable[str]) -> None:
        """Raise InputError if a column is missing; the message lists the existing ones."""
        missing = [name for name in dict.fromkeys(columns) if name not in self.columns]
        if missing:
            raise InputError(
                f"{self.title} has no column {', '.join(missing)}; it has {', '.join(self.columns)}. Set them "
                "with columns (--columns image=...,label=... on the command line, --column for image-mean)"
            )

    def read(self, columns: Sequence[str], image_columns: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Iterate over the rows chosen by ``where`` and ``limit``, in order.

        Args:
            columns: the columns to read.
            image_columns: further columns, of images, which stay undecoded.

        Raises:
            InputError: a missing column, or rows that cannot be read.
        """
        from datasets import Image

        where = {
            key: {str(item) for item in (value if isinstance(value, tuple) else (value,))}
            for key, value in self.data.where.items()
        }
        wanted = list(dict.fromkeys([*columns, *image_columns, *where]))
        self.check(wanted)
        try:
            rows = self.rows.select_columns(wanted)
            features = self.rows.features or {}
            for name in image_columns:
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

    def bar(self, action: str, shown: bool) -> tqdm[Any]:
        """Return a progress bar over the rows."""
        try:
            count = len(self.rows)
        except (TypeError, NotImplementedError):
            count = None
        limits = [limit for limit in (count, self.data.limit) if limit is not None]
        return tqdm(total=min(limits, default=None), desc=f"{action} {self.title}", unit="row", disable=not shown)


def open_dataset(data: DatasetSettings, *, progress: bool = False) -> ImageDataset:
    """Open a dataset, or draw one. With ``progress``, ``datasets`` shows its bars on stderr.

    Raises:
        InputError: not found, not on this machine while offline, an unknown split, or not readable by ``datasets``.
    """
    if data.world is not None and data.seed is not None and data.pictures is not None:
        rows = world_dataset(data.world, data.seed, data.pictures)
        return _source(data, f"drawn world: {data.world}, seed {data.seed}", "", rows)

    from datasets.exceptions import DatasetsError
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    name = str(data.dataset)
    local = os.path.exists(name)
    title = shown_name(name) if local else sanitize(impersonal(name))
    try:
        with ExitStack() as undo:
            if not progress and not are_progress_bars_disabled():
                disable_progress_bars()
                undo.callback(enable_progress_bars)
            rows = _local(data, Path(name)) if local else _remote(data)
    except InputError:
        raise
    except (DatasetsError, OSError, ValueError, TypeError, LookupError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{title}: no dataset could be opened ({_one_line(error)}); expected the id of a dataset on the Hub, a "
            "folder with one folder of images for each class, a folder of Parquet files, or one of save_to_disk"
        ) from None
    split, rows = _split(data, rows, title)
    return _source(data, title, split, rows)


def _source(data: DatasetSettings, title: str, split: str, rows: Any) -> ImageDataset:
    columns = rows.column_names
    if columns is None:
        # A stream may know its columns only from its first row.
        first = next(iter(rows), None)
        if first is None:
            raise InputError(f"{title} has no rows")
        columns = list(first)
    return ImageDataset(data, title, split, rows, tuple(columns))


def _local(data: DatasetSettings, path: Path) -> Any:
    import datasets

    if data.revision is not None:
        raise InputError(f"{shown_name(str(path))} is a local dataset, which has no revisions; remove revision")
    if path.is_file():
        kind = _FILES.get(path.suffix.lower())
        if kind is None:
            raise InputError(f"{path.name} has an unknown file type; expected one of {', '.join(_FILES)}")
        return datasets.load_dataset(kind, data_files=str(path), streaming=data.streaming)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(str(path))
        if not data.streaming:
            return saved
        if isinstance(saved, Mapping):
            return {key: value.to_iterable_dataset() for key, value in saved.items()}
        return saved.to_iterable_dataset()
    # Without "./", datasets takes a folder named imagefolder or csv for one of its own loaders.
    return datasets.load_dataset(os.path.join(".", path), data.name, streaming=data.streaming)


def _remote(data: DatasetSettings) -> Any:
    import datasets

    if data.split is None and not data.streaming:
        # With several splits, nothing is downloaded before one is named.
        try:
            names = datasets.get_dataset_split_names(data.dataset, data.name, revision=data.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError):
            names = []  # offline or refused: load_dataset finds the local copy or raises
        _one_of(names, sanitize(impersonal(str(data.dataset))))
    return datasets.load_dataset(
        data.dataset, data.name, split=data.split, revision=data.revision, streaming=data.streaming
    )


def _split(data: DatasetSettings, rows: Any, title: str) -> tuple[str, Any]:
    if not isinstance(rows, Mapping):
        return data.split or "", rows
    if data.split is not None:
        if data.split not in rows:
            raise InputError(f"{title} has no split {data.split}; its splits are {', '.join(map(str, rows))}")
        return data.split, rows[data.split]
    _one_of(list(rows), title)
    ((name, only),) = rows.items()
    return str(name), only


def _one_of(splits: Sequence[str], title: str) -> None:
    if len(splits) > 1:
        raise InputError(f"{title} has several splits, {', '.join(map(str, splits))}; name one with split (--split)")


def _one_line(error: BaseException) -> str:
    return sanitize(impersonal(" ".join(str(error).split())), 300) or type(error).__name__
