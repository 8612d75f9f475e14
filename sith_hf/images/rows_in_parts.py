"""The parts of an embedded dataset: the same for any number of processes, so that each is made once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.errors import InputError, TemporaryError
from sith_hf.files import Part, ResumableJob
from sith_hf.images.datasets import ImageDataset
from sith_hf.images.model_variant import ModelVariant
from sith_hf.images.pieces import as_tensor, fingerprint

# Batches in one part, the most that is repeated after an interruption.
BATCHES = 16

Row = dict[str, Any]
CheckRow = Callable[[Mapping[str, Any], int], None]


@dataclass(frozen=True, eq=False)
class RowsInParts:
    """The rows of a dataset, cut into parts.

    Attributes:
        source: the dataset.
        image_columns: its columns of images.
        columns: the other columns to read.
        size: rows in one part.
        make: makes the part of some rows.
        check: called with the other columns and the number of each row, before its part is made.
        values: the other columns of all rows, once :meth:`made` has ended.
    """

    source: ImageDataset
    image_columns: Sequence[str]
    columns: Sequence[str]
    size: int
    make: Callable[[Iterator[Row]], Part]
    check: CheckRow | None
    values: dict[str, list[Any]] = field(default_factory=dict)

    def made(self, job: ResumableJob, step: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, Part]]:
        """Yield every part with its name; names sort as the rows do. Raises as ``ResumableJob.parts`` and ``check``."""
        self.values.update({name: [] for name in self.columns})
        if self.source.data.streaming:
            yield from job.pieces(step, facts, lambda known: self._streamed(job, known))
            return
        # Fail before hours of work. A second reading of the other columns costs little.
        table = job.processes.each(self._read_values)
        names = [_name(number) for number in range(-(-len(table.rows) // self.size))]
        yield from job.parts(step, facts, names, lambda name: self._of_table(table, name))

    def _read_values(self) -> ImageDataset:
        """Read the other columns; return the chosen rows."""
        table = self.source.chosen()
        for number, row in enumerate(table.read(self.columns) if self.columns else ()):
            self._take(row, number)
        return table

    def _take(self, row: Row, number: int) -> None:
        if self.check is not None:
            self.check(row, number)
        for name in self.columns:
            self.values[name].append(row[name])

    def _of_table(self, table: ImageDataset, name: str) -> Part:
        start = int(name) * self.size
        rows = table.rows.select(range(start, min(start + self.size, len(table.rows))))
        return self.make(_kept_open(replace(table, rows=rows).read([], self.image_columns)))

    def _streamed(self, job: ResumableJob, known: Mapping[str, Part]) -> Iterator[tuple[str, Part]]:
        """Read the stream to its end, and make the parts of this process that are not known."""
        rows, number = self.source.read(self.columns, self.image_columns), 0
        while piece := list(islice(rows, self.size)):
            for offset, row in enumerate(piece):
                self._take(row, number * self.size + offset)
            name, images = _name(number), self._fingerprint(piece)
            if name in known:
                if not torch.equal(known[name]["images"], images):
                    raise InputError(
                        f"{self.source.title}: images from row {number * self.size} on differ from those before the "
                        "interruption; delete the work folder to start again"
                    )
            elif number % job.processes.world_size == job.processes.rank:
                yield name, {**self.make(iter(piece)), "images": images}
            number += 1

    def _fingerprint(self, rows: Sequence[Row]) -> Tensor:
        numbers = [fingerprint(rows, name) for name in self.image_columns]
        return torch.cat([as_tensor(number) for number in numbers])


def _name(number: int) -> str:
    return f"{number:08d}"


def _kept_open(rows: Iterator[Row]) -> Iterator[Row]:
    """Raise TemporaryError for a row that cannot be read: the parts of the others stay."""
    try:
        yield from rows
    except InputError as error:
        raise TemporaryError(str(error)) from None


def facts_of(
    variants: Sequence[ModelVariant], source: ImageDataset, image_columns: Sequence[str], **settings: Any
) -> dict[str, Any]:
    """Return everything that determines the parts, as plain data; ``settings`` are further facts."""
    data, known = source.data, dict[tuple[Any, ...], str]()
    fingerprint = None if data.streaming or data.world is not None else getattr(source.rows, "_fingerprint", None)
    return {
        "images": [
            data.model_dump(mode="json", exclude={"columns", "rows", "sha256"}),
            fingerprint,
            list(image_columns),
        ],
        "variants": [variant.name for variant in variants],
        "weights": [_weights_sha256(variant, known) for variant in variants],
        "settings of the model": [_sha256(_config(variant.model.config.to_dict())) for variant in variants],
        "computed in": [str(next(variants[0].model.parameters()).dtype)],
        "image processor": json.dumps(variants[0].processor.to_dict(), sort_keys=True, default=str),
        **settings,
    }


def _weights_sha256(variant: ModelVariant, known: dict[tuple[Any, ...], str]) -> str:
    """Return the sha256 of a model's weights. ``known`` has those that variants share."""
    tensors = {**variant.model.state_dict(), "the projection": variant.projection}
    prints = []
    for name, tensor in sorted((name, tensor) for name, tensor in tensors.items() if tensor is not None):
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if key not in known:
            known[key] = tensor_sha256(tensor)
        prints.append([name, known[key]])
    return _sha256(prints)


def _config(settings: Any) -> Any:
    """Return the settings of a model without the folder that it was loaded from."""
    if isinstance(settings, dict):
        return {key: _config(value) for key, value in settings.items() if key != "_name_or_path"}
    return settings


def _sha256(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
