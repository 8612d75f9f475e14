"""``StoredRows``: a table of numbers in a safetensors file, read a block or a few rows at a time.

It is read and not mapped into memory: the memory that reading takes is known beforehand, and a file that is cut short
under a run is an error that says so, where a map of it would end the process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sith_hf.errors import ArtifactError, TemporaryError
from sith_hf.files import artifact as artifacts
from sith_hf.files.artifact import Layout

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes that embeddings are stored in; every number of each of them is a float32 number too."""

HEADER = 10**8
"""Bytes of a safetensors header at most, as the format has it."""


READ = 2**21
"""Numbers in one block that is written: 8 MB in float32."""


class Rows(Protocol):
    """A table ``[M, P]`` that is read a block at a time."""

    @property
    def shape(self) -> torch.Size: ...

    def block(self, start: int, stop: int) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class FileBackedRows:
    """Rows of one two-dimensional tensor in a file, handed out as float32, exactly as they are stored.

    Usable as :class:`sith_hf.pursuit.Atoms`. The file is opened anew for every read and refused once it is another one
    than at first: by its size, its time of change, its place on the disk and its header.

    Attributes:
        path: the file.
        shape: ``[M, P]``.
        stored: the dtype in the file.
        offset: where in the file the first row begins.
        state: what the file was when it was first opened.
    """

    path: Path
    shape: torch.Size
    stored: torch.dtype
    offset: int
    state: tuple[object, ...]

    dtype = torch.float32
    device = torch.device("cpu")
    slack = 0.0
    longest = None

    @classmethod
    def open(cls, path: Path, name: str) -> FileBackedRows:
        """The tensor ``name`` of the file. Raises ArtifactError where there is none of two dimensions that we read."""
        header, length = _header(path)
        entry = header.get(name)
        if not isinstance(entry, Mapping) or entry.get("dtype") not in DTYPES or not _two_sizes(entry.get("shape")):
            raise ArtifactError(f"{path}: {name} is not a table of float32, float16 or bfloat16 numbers")
        offset = 8 + length + int(entry["data_offsets"][0])
        return cls(path, torch.Size(entry["shape"]), DTYPES[entry["dtype"]], offset, _state(path))

    def block(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, float32. Raises TemporaryError where the file has changed."""
        with self._opened() as file:
            return self._read(file, start, stop).float()

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index`` int64 of any shape, ``[..., P]`` float32. Raises TemporaryError where the file changed."""
        wanted, place = torch.unique(index.cpu(), return_inverse=True)
        found = torch.empty(len(wanted), self.shape[1], dtype=self.stored)
        # Rows that follow one another are one read.
        edges = [0, *((wanted.diff() != 1).nonzero().squeeze(1) + 1).tolist(), len(wanted)]
        with self._opened() as file:
            for begin, end in pairwise(edges):
                if begin < end:
                    self._read(file, int(wanted[begin]), int(wanted[end - 1]) + 1, found[begin:end])
        return found.float()[place]

    def check_unchanged(self) -> None:
        """Raise TemporaryError unless the file is what it was when it was first opened, header included."""
        if _state(self.path) != self.state:
            raise self._changed()

    @contextmanager
    def _opened(self) -> Iterator[FileIO]:
        try:
            with FileIO(self.path) as file:
                if _marks(os.fstat(file.fileno())) != self.state[:-1]:
                    raise self._changed()
                yield file
        except OSError as error:
            raise TemporaryError(f"{self.path} could not be read ({error.strerror})") from None

    def _read(self, file: FileIO, start: int, stop: int, into: Tensor | None = None) -> Tensor:
        width = self.shape[1]
        if into is None:
            into = torch.empty(stop - start, width, dtype=self.stored)
        place = memoryview(into.view(torch.uint8).numpy().data).cast("B")
        file.seek(self.offset + start * width * self.stored.itemsize)
        while len(place) > 0:
            count = file.readinto(place)
            if not count:
                raise self._changed()
            place = place[count:]
        return into

    def _changed(self) -> TemporaryError:
        return TemporaryError(
            f"{self.path} changed while it was in use: start again, and leave it alone until the run has ended"
        )


def _two_sizes(shape: object) -> bool:
    return isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size >= 0 for size in shape)


def write_beside(
    folder: str | Path, layout: Layout, tensors: Mapping[str, Tensor], data: Mapping[str, Any], name: str, rows: Rows
) -> Path:
    """As :func:`sith_hf.files.write_artifact`, to the byte, but the tensor ``name`` is written block by block.

    Args:
        folder, layout, data: as there.
        tensors: the others.
        name: the tensor that is not held in memory.
        rows: its numbers, rounded to the dtype that ``layout`` has for it.

    Raises:
        OutputError: the file could not be written whole; an earlier one under its name is then still there.
    """
    dtype = layout.tensors[name][0]
    empty = {**tensors, name: torch.empty(0, rows.shape[1], dtype=dtype)}
    small = artifacts.write_artifact(folder, replace(layout, filename=f".{layout.filename}.small"), empty, data)
    try:
        header, length = _header(small)
        content = small.read_bytes()[8 + length :]
    finally:
        small.unlink()
    count, size = rows.shape[0], rows.shape.numel() * dtype.itemsize
    place = header[name]["data_offsets"][0]
    for key, entry in header.items():
        # What stands behind the table, itself of no length so far, moves by its length.
        if key != "__metadata__" and key != name and entry["data_offsets"][0] >= place:
            entry["data_offsets"] = [offset + size for offset in entry["data_offsets"]]
    header[name] |= {"shape": list(rows.shape), "data_offsets": [place, place + size]}
    said = json.dumps(header, sort_keys=True, separators=(",", ":")).encode("ascii")
    said += b" " * (-len(said) % 8)

    def parts() -> Iterator[bytes | memoryview]:
        yield len(said).to_bytes(8, "little") + said + content[:place]
        step = max(1, READ // rows.shape[1])
        for start in range(0, count, step):
            block = rows.block(start, min(start + step, count)).detach().cpu().to(dtype).contiguous()
            yield block.view(torch.uint8).numpy().data
        yield content[place:]

    path = Path(folder) / layout.filename
    _write_parts(path, parts())
    return path


def _write_parts(path: Path, parts: Iterator[bytes | memoryview]) -> None:
    with artifacts.staged(path.parent) as folder, (folder / path.name).open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def stored_dtype(path: Path, name: str) -> torch.dtype | None:
    """The dtype of a tensor of a safetensors file; None where it is none of ``DTYPES``, or there is no such tensor."""
    try:
        return DTYPES.get(_header(path)[0].get(name, {}).get("dtype"))
    except (ArtifactError, AttributeError):
        return None


def read_beside(path: Path, layout: Layout, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As :func:`sith_hf.files.read_artifact`, but the tensor ``name`` is a map of the file and not looked through.

    What must hold of its numbers is for the caller to see to, a block at a time: looking through a map of three
    gigabytes at once would take several times that.
    """
    rest = replace(layout, tensors={key: value for key, value in layout.tensors.items() if key != name})
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            artifacts.check_identity(path, layout, metadata)
            names = set(file.keys())
            artifacts.require(names == set(layout.tensors), path, f"its tensors are {sorted(names)}; make it again")
            tensors = {key: file.get_tensor(key) for key in layout.tensors}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error}); make it again") from None
    artifacts.check_tensors(path, rest, tensors)
    artifacts.require(tensors[name].dtype == layout.tensors[name][0], path, f"{name} is {tensors[name].dtype}")
    try:
        data = json.loads(metadata.get("sith", "null"))
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: its metadata is not JSON; make it again") from None
    artifacts.require(isinstance(data, dict), path, "its metadata holds no JSON object under 'sith'; make it again")
    for key, kind in layout.data.items():
        artifacts.require(isinstance(data.get(key), kind) and key in data, path, f"its metadata has no valid {key!r}")
    return tensors, data


def _header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with FileIO(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= HEADER else None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error})") from None
    if not isinstance(header, dict):
        raise ArtifactError(f"{path} is not a whole safetensors file (its header is not one)")
    return header, length


def _marks(found: os.stat_result) -> tuple[object, ...]:
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev


def _state(path: Path) -> tuple[object, ...]:
    try:
        with FileIO(path) as file:
            length = int.from_bytes(file.read(8), "little")
            digest = hashlib.sha256(file.read(min(length, HEADER))).hexdigest()
            return *_marks(os.fstat(file.fileno())), digest
    except OSError as error:
        raise ArtifactError(f"{path} could not be read ({error.strerror})") from None
