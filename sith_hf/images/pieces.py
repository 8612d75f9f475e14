"""Cut a dataset of images into pieces that are the same for any number of processes, and share them.

A piece has a name and a key: names sort as the rows do, and key + n is the key of its row n. Pieces made before an
interruption are checked by the fingerprint of their images, wherever rows are read again anyway.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from sith_hf.core.distributed import Processes
from sith_hf.errors import InputError
from sith_hf.files import Part
from sith_hf.images.datasets import ImageDataset
from sith_hf.images.decode import raw_image
from sith_hf.images.pixels import BrokenImage

Rows = list[dict[str, Any]]

# Above the number of rows of any shard of a stream.
SHARD = 2**40


@dataclass(frozen=True)
class Piece:
    """Some successive rows of a dataset.

    Attributes:
        name: of the form ``shard-number``.
        key: of its first row: the number of the row, plus ``SHARD`` times that of its shard in a stream of shards.
        rows: with undecoded images.
    """

    name: str
    key: int
    rows: Rows


def missing_pieces(
    source: ImageDataset, column: str, size: int, processes: Processes, found: Mapping[str, Part]
) -> Iterator[Piece]:
    """Yield the pieces of this process that are not in ``found``, in order.

    Args:
        source: the dataset.
        column: of the images, the only one that is read.
        size: the most rows in a piece.
        processes: all of them must make this call.
        found: finished parts by the names of their pieces, each with the tensor ``images`` of :func:`fingerprint`.

    Raises:
        InputError: images of a finished part that have changed, or rows that cannot be read.
    """
    from datasets.distributed import split_dataset_by_node

    if not source.data.streaming and not source.data.where:
        rows, limit = source.rows, source.data.limit
        if limit is not None:
            rows = rows.select(range(min(limit, len(rows))))
        pieces = -(-len(rows) // size)
        # Every process sees the same list of missing pieces and computes its share of them.
        missing = [number for number in range(pieces) if _name(0, number) not in found]
        for number in missing[processes.rank :: processes.world_size]:
            # With one "node" for each piece, pieces stay the same for any number of processes. The first ones have one
            # row more where the rows do not divide.
            part = split_dataset_by_node(rows, rank=number, world_size=pieces)
            least, more = divmod(len(rows), pieces)
            yield Piece(_name(0, number), number * least + min(number, more), list(_whole(source, part, column)))
        return
    stream = source.data.streaming and source.data.limit is None
    shards = int(getattr(source.rows, "num_shards", 1) or 1) if stream else 1
    # Processes share the shards if each gets the same number, and otherwise the pieces of every shard.
    even = shards % processes.world_size == 0
    for shard in range(shards):
        if even and shard % processes.world_size != processes.rank:
            continue
        part = split_dataset_by_node(source.rows, rank=shard, world_size=shards) if shards > 1 else None
        read, number = source.read([], [column]) if part is None else _whole(source, part, column), 0
        while rows := list(islice(read, size)):
            name = _name(shard, number)
            if name in found:
                if fingerprint(rows, column) != number_of(found[name]):
                    raise InputError(
                        f"{source.title}: images from row {number * size} on differ from those before the "
                        "interruption; delete the work folder to start again"
                    )
            elif even or (shard + number) % processes.world_size == processes.rank:
                yield Piece(name, shard * SHARD + number * size, rows)
            number += 1


def in_order(parts: Iterable[tuple[str, Part]]) -> Iterator[Part]:
    """Yield the parts of pieces in the order of their names, each as soon as all before it are there.

    So sums have the same bits however the pieces were shared, and only parts that are out of order stay in memory; of a
    stream of several shards, those of all shards but the first.
    """
    waiting: dict[str, Part] = {}
    number = 0
    for name, part in parts:
        waiting[name] = part
        while (first := _name(0, number)) in waiting:
            yield waiting.pop(first)
            number += 1
    yield from (waiting[name] for name in sorted(waiting))


def described(source: ImageDataset) -> dict[str, Any]:
    """Return the record of a dataset in a result, as JSON values without local folders."""
    data = source.data
    return {
        "title": source.title,
        "config": data.name,
        "split": source.split or None,
        "revision": data.revision,
        "fingerprint": None if data.streaming else getattr(source.rows, "_fingerprint", None),
        "column": data.columns.image,
        "limit": data.limit,
    }


def image_facts(source: ImageDataset) -> list[Any]:
    """Return what determines the images of a dataset, for the facts of a :class:`sith_hf.files.ResumableJob`."""
    data = source.data
    return [described(source), data.dataset, data.seed, data.pictures, data.streaming, sorted(data.where.items())]


def fingerprint(rows: Sequence[dict[str, Any]], column: str) -> int:
    """Return a fingerprint of the images of rows, and read their files. Fingerprints of parts add up to the whole's."""
    total = 0
    for row in rows:
        with suppress(BrokenImage):  # decoding reports the reason
            row[column] = raw_image(row[column])
        total += int.from_bytes(hashlib.sha256(_content(row[column])).digest(), "big")
    return total % 2**256


def as_tensor(number: int) -> torch.Tensor:
    """Return a fingerprint as the tensor ``images`` of a part."""
    return torch.frombuffer(bytearray(number.to_bytes(32, "big")), dtype=torch.uint8)


def number_of(part: Part) -> int:
    """Return the fingerprint in a part."""
    return int.from_bytes(part["images"].numpy().tobytes(), "big")


def hex_of(number: int) -> str:
    """Return a sum of fingerprints as results write it."""
    return f"{number % 2**256:064x}"


def _whole(source: ImageDataset, rows: Any, column: str) -> Iterator[dict[str, Any]]:
    """Read other rows of the same dataset, all of them."""
    return replace(source, rows=rows, data=source.data.model_copy(update={"limit": None})).read([], [column])


def _name(shard: int, number: int) -> str:
    return f"{shard:05d}-{number:07d}"


def _content(value: Any) -> bytes:
    """Return bytes that differ between different images; those of a value that is no image may not."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return json.dumps(value, default=lambda item: type(item).__name__).encode("ascii")
