"""Safetensors files: the one parser of headers, the one writer, and tables that stay in their file."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from sith_hf.files.unchanged import UnchangedFile, write_all

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""The dtypes that sith-hf reads, by their names in a header."""

CHECKSUMS = "checksums"
"""The key of the metadata that holds a sha256 of each tensor and of the header."""

READ = 2**21
"""Numbers in one block of a table that is written: 8 MB in float32."""

# As the format has it.
_MAX_HEADER = 10**8
_BLANK = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One tensor in a file.

    Attributes:
        key: its name in the file.
        dtype, shape: as the header has them.
        start, stop: its bytes, counted from the beginning of the file.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        raw: its bytes, the length before them not included.
        fields: the JSON object.
        metadata: its texts; empty where there are none.
        entries: the tensors by name.
    """

    raw: bytes
    fields: Mapping[str, Any]
    metadata: Mapping[str, str]
    entries: Mapping[str, Entry]

    @property
    def data_start(self) -> int:
        """Where the bytes of tensors begin."""
        return 8 + len(self.raw)


def read_header(file: FileIO) -> Header:
    """Read and check the header of an open file. Raises ValueError unless it describes every byte of the file."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER, size - 8):
        raise ValueError("the length of its header does not fit")
    raw = file.read(length)
    try:
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    metadata = fields.get("__metadata__", {}) if isinstance(fields, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its header is not one of safetensors")
    for text in (*fields, *metadata, *metadata.values()):
        text.encode("utf-8")  # half of a surrogate pair is a ValueError
    start = 8 + length
    entries = {key: _entry(key, item, start) for key, item in fields.items() if key != "__metadata__"}
    at = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.stop)):
        if entry.start != at:
            raise ValueError(f"its tensor {entry.key!r} does not begin where another ends")
        at = entry.stop
    if at != size:
        raise ValueError(f"it has {size} bytes, and its header describes {at}")
    return Header(raw, fields, metadata, entries)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _entry(key: str, item: Any, data_start: int) -> Entry:
    try:
        dtype, shape, (start, stop) = item["dtype"], item["shape"], item["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"its header does not say where the tensor {key!r} is") from None
    numbers = [*shape, start, stop] if isinstance(shape, list) else [None]
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"its header does not say what the tensor {key!r} is")
    # A dtype that torch lacks may be copied, and not read.
    if dtype in DTYPES and prod(shape) * DTYPES[dtype].itemsize != stop - start:
        raise ValueError(f"its tensor {key!r} has another number of bytes than its shape")
    return Entry(key, dtype, tuple(shape), data_start + start, data_start + stop)


def raw_bytes(tensor: Tensor) -> Any:
    """The bytes of a contiguous tensor, as an array that shares its memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def read_tensor(source: UnchangedFile, file: FileIO, entry: Entry) -> Tensor:
    """Read a tensor of one of ``DTYPES`` into memory of its own."""
    tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    source.fill_from(file, raw_bytes(tensor), entry.start)
    return tensor


# ---------------------------------------------------------------- checksums
#
# One bit of a gain or of a label that flips on the disk gives another file that is as valid. So every tensor has a
# checksum in the metadata, and the header has one over its own bytes, with 64 zeros in the place of the checksum.


def stated_checksums(header: Header) -> Mapping[str, str] | None:
    """The sha256 of each tensor that the header states; None where it states none, as files of the past do.

    Raises:
        ValueError: the header is not the one that was written.
    """
    if CHECKSUMS not in header.metadata:
        return None
    try:
        stated = json.loads(header.metadata[CHECKSUMS])
        own, tensors = stated["header"], stated["tensors"]
        blank = header.raw.replace(own.encode("ascii"), _BLANK.encode(), 1)
        fits = set(tensors) == set(header.entries) and hashlib.sha256(blank).hexdigest() == own
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise ValueError("its header does not have the checksum that it states")
    return dict(tensors)


def tensor_checksum(tensor: Tensor) -> str:
    """The sha256 of the bytes of a contiguous tensor on the CPU, as a file stores them."""
    return hashlib.sha256(raw_bytes(tensor).data).hexdigest()


def stored_checksum(source: UnchangedFile, file: FileIO, entry: Entry) -> str:
    """The sha256 of a tensor in an open file, of which a bounded piece is in memory at a time."""
    digest, buffer, at = hashlib.sha256(), memoryview(bytearray(2**20)), entry.start
    while at < entry.stop:
        piece = buffer[: entry.stop - at]
        source.fill_from(file, piece, at)
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()


# ---------------------------------------------------------------- writing


class Rows(Protocol):
    """A table ``[M, P]`` that is read a block at a time."""

    @property
    def shape(self) -> torch.Size: ...

    def block(self, start: int, stop: int) -> Tensor: ...


@dataclass(frozen=True)
class RowBlocks:
    """A table to write block by block, rounded to ``dtype``."""

    rows: Rows
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """``[M, P]``."""
        return self.rows.shape

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows in order, in blocks of at most ``READ`` numbers."""
        count, width = self.shape
        step = max(1, READ // max(width, 1))
        for start in range(0, count, step):
            yield self.rows.block(start, min(start + step, count)).to(self.dtype)


def write_tensors(file: FileIO, tensors: Mapping[str, Tensor | RowBlocks], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file with checksums into an empty open file. The same tensors give the same bytes.

    A table may be larger than memory, so that its checksum is known when it is written: the header comes first with
    blanks for checksums, and again at the end.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    fields: dict[str, Any] = {}
    at = 0
    # Wide numbers first: every tensor is then aligned.
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
        for block in item.blocks() if isinstance(item, RowBlocks) else [item]:
            content = raw_bytes(block.detach().cpu().contiguous()).data
            write_all(file, content)
            digest.update(content)
        checksums[name] = digest.hexdigest()
    raw = header(checksums)
    file.seek(8)
    write_all(file, raw.replace(_BLANK.encode(), hashlib.sha256(raw).hexdigest().encode(), 1))


# ---------------------------------------------------------------- tables that stay in their file


@dataclass(frozen=True, eq=False)
class FileBackedRows:
    """Rows of one two-dimensional tensor in a file, handed out as float32, exactly as they are stored.

    Usable as :class:`sith_hf.pursuit.Atoms`. The file is opened for every read. Methods raise TemporaryError after a
    change of it.

    Attributes:
        file: the file.
        shape: ``[M, P]``.
        stored: the dtype in the file.
        offset: where in the file the first row begins, in bytes.
    """

    file: UnchangedFile
    shape: torch.Size
    stored: torch.dtype
    offset: int

    dtype = torch.float32
    device = torch.device("cpu")
    slack = 0.0
    longest = None

    @classmethod
    def of(cls, file: UnchangedFile, entry: Entry) -> FileBackedRows:
        """The rows of one tensor, of two dimensions."""
        return cls(file, torch.Size(entry.shape), DTYPES[entry.dtype], entry.start)

    def mapped(self, file: FileIO) -> Tensor:
        """All rows as a map of the open file, in the dtype that is stored; changes of it stay in memory."""
        count = self.shape.numel()
        if not count:
            return torch.empty(self.shape, dtype=self.stored)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(memory, dtype=self.stored, count=count, offset=self.offset).view(self.shape)

    def block(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, float32."""
        found = torch.empty(stop - start, self.shape[1], dtype=self.stored)
        with self.file.opened() as file:
            self._fill(file, found, start)
        return found.float()

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index`` int64 of any shape, ``[..., P]`` float32."""
        wanted, place = torch.unique(index.cpu(), return_inverse=True)
        found = torch.empty(len(wanted), self.shape[1], dtype=self.stored)
        # Rows that follow one another are one read.
        edges = [0, *((wanted.diff() != 1).nonzero().squeeze(1) + 1).tolist(), len(wanted)]
        with self.file.opened() as file:
            for begin, end in pairwise(edges):
                if begin < end:
                    self._fill(file, found[begin:end], int(wanted[begin]))
        return found.float()[place]

    def check_unchanged(self) -> None:
        """Raise TemporaryError unless the file is what it was when it was first opened."""
        self.file.check()

    def _fill(self, file: FileIO, into: Tensor, start: int) -> None:
        self.file.fill_from(file, raw_bytes(into), self.offset + start * self.shape[1] * self.stored.itemsize)
