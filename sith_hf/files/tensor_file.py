"""Safetensors files: the one parser of headers, the one writer, and rows that stay in their file."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.reading import LFS_POINTER, is_lfs_pointer, open_regular
from sith_hf.files.unchanged import UnchangedFile, stamp_of, write_all

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
"""The dtypes that sith-hf reads, by their names in a header."""

CHECKSUMS = "checksums"
"""The metadata key of the sha256 of each tensor, and of the header with 64 zeros in place of its own checksum."""

# The limit of the format.
_MAX_HEADER = 10**8
_BLANK = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One tensor in a file.

    Attributes:
        key: its name in the file.
        dtype, shape: as in the header.
        start, stop: the range of its bytes in the file.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFile(UnchangedFile):
    """A safetensors file as it was when its header was read. Methods raise TemporaryError if it has changed since.

    Attributes:
        raw: the bytes of the header, without the 8 bytes of its length.
        fields: the JSON object in it.
        metadata: its texts; empty if there are none.
        entries: the tensors by name.
    """

    raw: bytes
    fields: Mapping[str, Any]
    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]

    @classmethod
    @contextmanager
    def read(cls, path: Path) -> Iterator[tuple[TensorFile, FileIO]]:
        """Open a file and read its header; the file is compared with its stamp after the block.

        Raises:
            OSError: it cannot be opened.
            ValueError: the header does not describe every byte of the file.
        """
        with open_regular(path) as file:
            stamp = stamp_of(file)
            size = stamp[2]
            start = file.read(24)
            if is_lfs_pointer(start):
                raise ValueError(LFS_POINTER)
            if not start:
                raise ValueError("it is empty")
            file.seek(8)
            length = int.from_bytes(start[:8], "little")
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise ValueError("the length of its header does not fit")
            raw = file.read(length)
            try:
                fields = json.loads(raw.decode("utf-8"), object_pairs_hook=_distinct)
                metadata = fields.get("__metadata__", {})
                for text in (*fields, *metadata, *metadata.values()):
                    text.encode("utf-8")  # half of a surrogate pair is a ValueError
                entries = {key: _entry(key, item, 8 + length) for key, item in fields.items() if key != "__metadata__"}
            except (AttributeError, KeyError, TypeError, RecursionError):
                raise ValueError("its header is not a safetensors header") from None
            at = 8 + length
            for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)):
                if entry.start != at:
                    raise ValueError(f"its tensor {entry.key!r} does not begin where another ends")
                at = entry.stop
            if at != size:
                raise ValueError(f"it has {size} bytes, but its header describes {at}")
            found = cls(path, stamp, raw, fields, metadata, entries)
            yield found, file
            found.check(file)

    def tensor(self, file: FileIO, key: str) -> Tensor:
        """Read a tensor of one of ``DTYPES`` from an open descriptor into new memory."""
        entry = self.entries[key]
        tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        self.fill(file, raw_bytes(tensor), entry.start)
        return tensor

    def check_sums(self, file: FileIO) -> None:
        """Compare header and tensors with the checksums in the metadata: one flipped bit leaves a file otherwise valid.

        Files of earlier releases have no checksums and pass.

        Raises:
            ValueError: a checksum differs.
        """
        if CHECKSUMS not in self.metadata:
            return
        try:
            stated = json.loads(self.metadata[CHECKSUMS])
            own, tensors = stated["header"], stated["tensors"]
            blank = self.raw.replace(own.encode("ascii"), _BLANK.encode(), 1)
            fits = set(tensors) == set(self.entries) and hashlib.sha256(blank).hexdigest() == own
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            fits = False
        if not fits:
            raise ValueError("its header does not match its checksum")
        for key, entry in self.entries.items():
            digest = hashlib.sha256()
            for piece in self.pieces(file, entry.start, entry.stop):
                digest.update(piece)
            if digest.hexdigest() != tensors[key]:
                raise ValueError(f"its tensor {key!r} does not match its checksum")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _entry(key: str, item: Any, data_start: int) -> Entry:
    dtype, shape, (start, stop) = item["dtype"], item["shape"], item["data_offsets"]
    numbers = [*shape, start, stop] if isinstance(shape, list) else [None]
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"its header does not describe the tensor {key!r}")
    # A tensor whose dtype torch lacks can be copied but not read.
    if dtype in DTYPES and prod(shape) * DTYPES[dtype].itemsize != stop - start:
        raise ValueError(f"its tensor {key!r} has another number of bytes than its shape")
    return Entry(key, dtype, tuple(shape), data_start + start, data_start + stop)


def raw_bytes(tensor: Tensor) -> Any:
    """Return the bytes of a contiguous tensor as an array that shares its memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


@dataclass(frozen=True)
class RowBlocks:
    """A table to write block by block; it may be larger than memory.

    Attributes:
        shape, dtype: of the whole table.
        blocks: its rows in order, of that dtype.
    """

    shape: torch.Size
    dtype: torch.dtype
    blocks: Iterable[Tensor]


def write_tensors(file: FileIO, tensors: Mapping[str, Tensor | RowBlocks], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with checksums into an empty open file. The same tensors give the same bytes.

    The checksum of a table is known only after it is written: the header is written with blanks first and again at
    the end.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    fields: dict[str, Any] = {}
    at = 0
    # Write wide numbers first, so that every tensor is aligned.
    for name in sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name)):
        item = tensors[name]
        stop = at + prod(item.shape) * item.dtype.itemsize
        fields[name] = {"dtype": names[item.dtype], "shape": list(item.shape), "data_offsets": [at, stop]}
        at = stop

    def header(checksums: Mapping[str, str]) -> bytes:
        stated = json.dumps({"header": _BLANK, "tensors": checksums}, sort_keys=True)
        whole = {**fields, "__metadata__": {**metadata, CHECKSUMS: stated}}
        raw = json.dumps(whole, sort_keys=True, separators=(",", ":")).encode("ascii")
        return raw + b" " * (-len(raw) % 8)

    checksums = dict.fromkeys(tensors, _BLANK)
    raw = header(checksums)
    write_all(file, len(raw).to_bytes(8, "little") + raw)
    for name in fields:
        item, digest = tensors[name], hashlib.sha256()
        for block in item.blocks if isinstance(item, RowBlocks) else [item]:
            content = raw_bytes(block.detach().cpu().contiguous()).data
            write_all(file, content)
            digest.update(content)
        checksums[name] = digest.hexdigest()
    raw = header(checksums)
    file.seek(8)
    write_all(file, raw.replace(_BLANK.encode(), hashlib.sha256(raw).hexdigest().encode(), 1))


@dataclass(frozen=True, eq=False)
class FileBackedRows:
    """The rows ``[M, P]`` of one tensor in a file, read as float32; usable as :class:`sith_hf.pursuit.Atoms`.

    Methods open the file and raise TemporaryError if it has changed.

    Attributes:
        file: the file.
        entry: the tensor in it.
    """

    file: UnchangedFile
    entry: Entry

    dtype = torch.float32
    device = torch.device("cpu")
    slack = 0.0
    longest = None

    @property
    def shape(self) -> torch.Size:
        """The shape ``[M, P]``."""
        return torch.Size(self.entry.shape)

    def mapped(self, file: FileIO) -> Tensor:
        """Return all rows as a memory map of the open file, in the stored dtype. Raises ValueError without rows."""
        memory, count = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), self.shape.numel()
        flat = torch.frombuffer(memory, dtype=DTYPES[self.entry.dtype], count=count, offset=self.entry.start)
        return flat.view(self.shape)

    def block(self, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop``, float32."""
        found = self._empty(stop - start)
        with self.file.opened() as file:
            self._fill(file, found, start)
        return found.float()

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows ``index`` int64 of any shape, ``[..., P]`` float32."""
        wanted, place = torch.unique(index.cpu(), return_inverse=True)
        found = self._empty(len(wanted))
        # Read consecutive rows together.
        edges = [0, *((wanted.diff() != 1).nonzero().squeeze(1) + 1).tolist(), len(wanted)]
        with self.file.opened() as file:
            for begin, end in pairwise(edges):
                if begin < end:
                    self._fill(file, found[begin:end], int(wanted[begin]))
        return found.float()[place]

    def check_unchanged(self) -> None:
        """Raise TemporaryError if the file has changed."""
        with self.file.opened():
            pass

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, self.shape[1], dtype=DTYPES[self.entry.dtype])

    def _fill(self, file: FileIO, into: Tensor, start: int) -> None:
        self.file.fill(file, raw_bytes(into), self.entry.start + start * self.shape[1] * into.itemsize)
