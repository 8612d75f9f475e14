"""Open a dataset of images, on the Hub or on this machine, and read its rows with undecoded images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from sith_hf.data import columns_of, dataset_fault, faults, no_column, open_rows
from sith_hf.errors import InputError
from sith_hf.images.dataset_settings import DatasetSettings
from sith_hf.world import world_dataset


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """An opened dataset of images.

    Attributes:
        data: the settings it was opened by.
        title: its name in results, without local folders.
        split: its split; empty if it has none.
        rows: the ``datasets.Dataset`` or ``IterableDataset``.
        columns: the names of its columns.
        notes: what of a local folder is left out or could be read otherwise, in sentences.
    """

    data: DatasetSettings
    title: str
    split: str
    rows: Any = field(repr=False)
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()

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

    def _is_one_of(self, column: str, value: Any, texts: set[str]) -> bool:
        # Of 1.0, people write both "1" and "1.0".
        return self.text_of(column, value) in texts or (isinstance(value, float) and str(value) in texts - {"nan"})

    def check(self, columns: Iterable[str]) -> None:
        """Raise InputError if a column is missing; the message lists the existing ones."""
        missing = [name for name in dict.fromkeys(columns) if name not in self.columns]
        if missing:
            raise no_column(
                self.title,
                ", ".join(missing),
                self.columns,
                "Set them with columns (--columns image=...,label=..., --column or --images-column on a command line)",
            )

    def read(self, columns: Sequence[str], image_columns: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Iterate over the rows chosen by ``where`` and ``limit``, in order.

        Args:
            columns: the columns to read.
            image_columns: further columns, of images, which stay undecoded.

        Raises:
            InputError: a missing column, or rows that cannot be read.
        """
        from datasets import Image, List

        wanted = list(dict.fromkeys([*columns, *image_columns, *self.data.where]))
        self.check(wanted)
        try:
            rows = self.rows.select_columns(wanted)
            features = self.rows.features or {}
            for name in image_columns:
                feature = features.get(name)
                if isinstance(feature, Image):
                    rows = rows.cast_column(name, Image(decode=False))
                elif isinstance(feature, List) and isinstance(feature.feature, Image):
                    rows = rows.cast_column(name, List(Image(decode=False)))
            taken, dtypes = 0, {name: _dtype(features.get(name)) for name in image_columns}
            for row in rows:
                if self.data.limit is not None and taken >= self.data.limit:
                    return
                if self._is_chosen(row):
                    taken += 1
                    yield {**row, **{name: _typed(row[name], dtype) for name, dtype in dtypes.items() if dtype}}
        except InputError:
            raise
        except faults() as error:
            raise dataset_fault(self.title, error) from None

    def chosen(self) -> ImageDataset:
        """Return the rows chosen by ``where`` and ``limit`` as a table without either.

        Raises:
            InputError: as for :meth:`read`. A stream has no numbered rows and cannot be asked.
        """
        numbers: Any = range(len(self.rows))
        if self.data.where:
            where, every = list(self.data.where), replace(self, data=self._all_rows)
            numbers = [number for number, row in enumerate(every.read(where)) if self._is_chosen(row)]
        if self.data.limit is not None:
            numbers = numbers[: self.data.limit]
        rows = self.rows if len(numbers) == len(self.rows) else self.rows.select(numbers)
        return replace(self, data=self._all_rows, rows=rows)

    @property
    def _all_rows(self) -> DatasetSettings:
        return self.data.model_copy(update={"where": {}, "limit": None})

    def _is_chosen(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row has the values of ``where``."""
        return all(
            self._is_one_of(key, row[key], {str(item) for item in (value if isinstance(value, tuple) else (value,))})
            for key, value in self.data.where.items()
        )

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
        InputError: as for :func:`sith_hf.data.open_rows`.
    """
    if data.world is not None and data.seed is not None and data.pictures is not None:
        title, rows = (
            f"drawn world: {data.world}, seed {data.seed}",
            world_dataset(data.world, data.seed, data.pictures),
        )
        return ImageDataset(data, title, "", rows, columns_of(rows, title))
    found = open_rows(
        str(data.dataset),
        config=data.name,
        split=data.split,
        revision=data.revision,
        streaming=data.streaming,
        progress=progress,
    )
    return ImageDataset(data, found.title, found.split, found.rows, found.columns, found.notes)


def _dtype(feature: Any) -> str | None:
    """Return the dtype of a column of arrays or of lists of numbers; None for other columns."""
    from datasets import Array2D, Array3D, Array4D, Array5D, LargeList, List, Value

    if isinstance(feature, Array2D | Array3D | Array4D | Array5D):
        return str(feature.dtype)
    depth = 0
    while isinstance(feature, List | LargeList):
        feature, depth = feature.feature, depth + 1
    return str(feature.dtype) if depth and isinstance(feature, Value) else None


def _typed(value: Any, dtype: str) -> Any:
    """Return lists of numbers as an array of the column's dtype: a dark picture of 16 bits has small numbers too."""
    if not isinstance(value, list) or dtype not in np.sctypeDict:
        return value
    try:
        return np.array(value, dtype=dtype)
    except (ValueError, TypeError, OverflowError):
        return value  # decode_image reports the reason
