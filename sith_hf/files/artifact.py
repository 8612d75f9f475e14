"""Our safetensors files: written whole or not at all, and checked in full when they are read.

The metadata says what a file is (``format``) and in which version (``version``), and has a checksum of each tensor;
everything else that is not a tensor is one JSON object under ``sith``. The layout of each kind stands beside its class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.errors import ArtifactError, InputError
from sith_hf.files.atomic import write_whole
from sith_hf.files.tensor_file import (
    CHECKSUMS,
    DTYPES,
    FileBackedRows,
    Header,
    RowBlocks,
    read_header,
    read_tensor,
    stated_checksums,
    stored_checksum,
    tensor_checksum,
    write_tensors,
)
from sith_hf.files.unchanged import Stamp, UnchangedFile

AGAIN = "make it again, or fetch it again"


@dataclass(frozen=True)
class Layout:
    """What a file of one kind holds.

    Attributes:
        format: the name in the metadata, such as ``sith-hf/edit-spec``.
        version: the version that this release writes and reads.
        filename: the name that the file has in its folder.
        tensors: name to (dtype, shape). A shape is a string of axis names, such as ``"N D"``; the same name
            means the same size throughout the file, and a number means that size.
        data: the keys that the JSON object must have, with their types.
        repo_type: the kind of Hub repository that it is published in.
        rounded: the float32 tensors that a file may hold as float16 or bfloat16.
    """

    format: str
    version: int
    filename: str
    tensors: Mapping[str, tuple[torch.dtype, str]]
    data: Mapping[str, type | tuple[type, ...]]
    repo_type: str = "model"
    rounded: tuple[str, ...] = ()

    def dtypes(self, name: str) -> tuple[torch.dtype, ...]:
        """The dtypes that a tensor may have."""
        return (self.tensors[name][0], *((torch.float16, torch.bfloat16) if name in self.rounded else ()))


def text_tensors(texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts as tensors: their UTF-8 bytes end to end, and the offset of each and of the end."""
    encoded = [text.encode("utf-8") for text in texts]
    offsets = torch.zeros(len(encoded) + 1, dtype=torch.int64)
    if encoded:
        offsets[1:] = torch.tensor([len(item) for item in encoded], dtype=torch.int64).cumsum(0)
    return {
        "text_bytes": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8),
        "text_offsets": offsets,
    }


def texts_of(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    """The inverse of :func:`text_tensors`. Raises ArtifactError where offsets or bytes are damaged."""
    raw, offsets = tensors["text_bytes"].numpy().tobytes(), tensors["text_offsets"].tolist()
    if not offsets or offsets[0] != 0 or offsets[-1] > len(raw) or any(a > b for a, b in pairwise(offsets)):
        raise ArtifactError(
            f"{path}: the offsets of the texts do not fit the bytes; the file is damaged, make it again"
        )
    try:
        return tuple(raw[a:b].decode("utf-8") for a, b in pairwise(offsets))
    except UnicodeDecodeError:
        raise ArtifactError(f"{path}: the texts are not UTF-8; the file is damaged, make it again") from None


def library_versions() -> dict[str, str]:
    """The versions that a result depends on, for its provenance."""
    return {name: version(name) for name in ("sith-hf", "torch", "transformers")}


def write_artifact(
    folder: str | Path, layout: Layout, tensors: Mapping[str, Tensor | RowBlocks], data: Mapping[str, Any]
) -> Path:
    """Write one file into ``folder``, which is made if it is missing. Return the file's path.

    Raises:
        OutputError: the file could not be written whole; an earlier one under its name is then still there.
    """
    path = Path(folder) / layout.filename
    said = json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False)
    said.encode("utf-8")  # no reader accepts half of a surrogate pair
    metadata = {"format": layout.format, "version": str(layout.version), "sith": said}
    write_whole(path, lambda file: write_tensors(file, tensors, metadata))
    return path


def read_artifact(path: Path, layout: Layout) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and check one file: checksums, format, version, names, dtypes, shapes, finiteness.

    Returns:
        the tensors by name, and the JSON object of the metadata.

    Raises:
        ArtifactError: anything is not as ``layout`` says; the message names the file and the fault.
    """
    tensors, data, _ = _read(path, layout, None)
    return tensors, data


def read_file_backed(path: Path, layout: Layout, name: str) -> tuple[dict[str, Tensor], dict[str, Any], FileBackedRows]:
    """As :func:`read_artifact`, but the tensor ``name`` stays in the file.

    Its checksum is compared, a piece at a time. Whether its numbers are finite is the caller's to check: all of a map
    of three gigabytes at once would take several times that.

    Returns:
        the tensors by name, of which ``name`` is a map of the file; the JSON object; and the rows of ``name``.
    """
    tensors, data, rows = _read(path, layout, name)
    assert rows is not None
    return tensors, data, rows


def _read(
    path: Path, layout: Layout, backed: str | None
) -> tuple[dict[str, Tensor], dict[str, Any], FileBackedRows | None]:
    # All of it comes from one descriptor: beside a writer, a second one may be another file of the same name.
    try:
        with FileIO(path) as file:
            source = UnchangedFile(path, Stamp.of(file))
            header = read_header(file)
            _check_identity(path, layout, header)
            checksums = stated_checksums(header)
            _check_shapes(path, layout, header)
            tensors: dict[str, Tensor] = {}
            rows = None
            for name in layout.tensors:
                entry = header.entries[name]
                if name == backed:
                    rows = FileBackedRows.of(source, entry)
                    found = None if checksums is None else stored_checksum(source, file, entry)
                    tensors[name] = rows.mapped(file)
                else:
                    tensors[name] = read_tensor(source, file, entry)
                    found = None if checksums is None else tensor_checksum(tensors[name])
                if checksums is not None and found != checksums[name]:
                    raise ArtifactError(f"{path}: {name} does not have its checksum, the file is damaged; {AGAIN}")
                finite = name == backed or not tensors[name].is_floating_point() or tensors[name].isfinite().all()
                require(bool(finite), path, f"{name} holds NaN or infinity; make the file again")
            if Stamp.of(file) != source.stamp:
                raise ArtifactError(f"{path} changed while it was read: read it again")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{path} is not a whole safetensors file ({reason}); {AGAIN}") from None
    return tensors, _data(path, layout, header), rows


def _check_identity(path: Path, layout: Layout, header: Header) -> None:
    metadata = header.metadata
    found = metadata.get("format")
    if found != layout.format:
        raise ArtifactError(f"{path} is not a file of format {layout.format} (its metadata says {found!r})")
    if metadata.get("version") != str(layout.version):
        raise ArtifactError(
            f"{path}: version {metadata.get('version')!r} of {layout.format}; this sith-hf reads version "
            f"{layout.version}: install the release that wrote it, or make it again"
        )
    # A damaged name of the checksums must not look like a file of the time before checksums.
    unknown = sorted(set(metadata) - {"format", "version", "sith", CHECKSUMS})
    require(not unknown, path, f"its metadata has unknown keys {unknown}; {AGAIN}")


def _check_shapes(path: Path, layout: Layout, header: Header) -> None:
    """Check names, dtypes and shapes before anything is read."""
    found, wanted = set(header.entries), set(layout.tensors)
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    require(not missing and not extra, path, f"tensors missing {missing}, unexpected {extra}; {AGAIN}")
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in layout.tensors.items():
        entry, expected = header.entries[name], axes.split()
        if DTYPES.get(entry.dtype) not in layout.dtypes(name) or len(entry.shape) != len(expected):
            raise ArtifactError(
                f"{path}: {name} should be {dtype} with axes [{', '.join(expected)}]; "
                f"it is {entry.dtype} of shape {list(entry.shape)}"
            )
        for axis, size in zip(expected, entry.shape, strict=True):
            right = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if size != right:
                raise ArtifactError(f"{path}: axis {axis} of {name} has {size} entries where {right} were expected")


def _data(path: Path, layout: Layout, header: Header) -> dict[str, Any]:
    try:
        data = json.loads(header.metadata.get("sith", "null"))
        # What could not be written again is no JSON of ours: NaN, half of a surrogate pair.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError
        raise ArtifactError(f"{path}: its metadata is not JSON; {AGAIN}") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: its metadata holds no JSON object under 'sith'; {AGAIN}")
    for key, kind in layout.data.items():
        require(key in data and isinstance(data[key], kind), path, f"its metadata has no valid {key!r}; {AGAIN}")
    return data


def require(condition: bool, path: Path, complaint: str) -> None:
    """Raise ArtifactError with ``complaint`` unless ``condition`` holds."""
    if not condition:
        raise ArtifactError(f"{path}: {complaint}")


def json_texts(value: object, what: str) -> tuple[str, ...]:
    """A JSON list of strings as a tuple. Raises InputError otherwise."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{what} must be a list of texts")
    return tuple(value)
