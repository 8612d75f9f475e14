"""Artifacts: safetensors files with checksums, written whole or not at all and checked in full when read.

The metadata names the ``format`` and ``version`` of a file and has the checksums; everything else that is not a tensor
is one JSON object under ``sith``. The layout of each kind is beside its class.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.reading import reason
from sith_hf.errors import ArtifactError, InputError
from sith_hf.files.atomic import write_whole
from sith_hf.files.tensor_file import CHECKSUMS, DTYPES, FileBackedRows, RowBlocks, TensorFile, write_tensors

_LOG = logging.getLogger(__name__)

AGAIN = "make it again, or fetch it again"


@dataclass(frozen=True)
class Layout:
    """The contents of one kind of artifact.

    Attributes:
        format: the name in the metadata, such as ``sith-hf/edit-spec``.
        version: the version that this release writes and reads.
        filename: the name of the file in its folder.
        tensors: name to (dtype, shape). A shape is a string of axis names, such as ``"N D"``; the same name
            means the same size throughout the file, and a number means that size.
        data: the required keys of the JSON object, with their types.
        repo_type: the kind of Hub repository for such a file.
        rounded: the float32 tensors that may be stored as float16 or bfloat16.
        optional: tensors of which a file has all or none, because earlier releases did not write them.
        parts: more groups of tensors, of each of which a file has all or none.
    """

    format: str
    version: int
    filename: str
    tensors: Mapping[str, tuple[torch.dtype, str]]
    data: Mapping[str, type | tuple[type, ...]]
    repo_type: str = "model"
    rounded: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    parts: tuple[tuple[str, ...], ...] = ()


def text_tensors(texts: Sequence[str]) -> dict[str, Tensor]:
    """Return texts as tensors: their UTF-8 bytes end to end, and the offset of each and of the end."""
    encoded = [text.encode("utf-8") for text in texts]
    return {
        "text_bytes": torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8),
        "text_offsets": torch.tensor([0, *map(len, encoded)], dtype=torch.int64).cumsum(0),
    }


def texts_of(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    """Return the texts of :func:`text_tensors`. Raises ArtifactError for damaged offsets or bytes."""
    raw, offsets = tensors["text_bytes"].numpy().tobytes(), tensors["text_offsets"].tolist()
    fits = offsets and offsets[0] == 0 and offsets[-1] <= len(raw) and all(a <= b for a, b in pairwise(offsets))
    require(bool(fits), path, "the offsets of the texts do not fit the bytes")
    try:
        return tuple(raw[a:b].decode("utf-8") for a, b in pairwise(offsets))
    except UnicodeDecodeError:
        raise ArtifactError(f"{path}: the texts are not UTF-8, the file is damaged; {AGAIN}") from None


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a result depends on."""
    return {name: _version(name) for name in ("sith-hf", "torch", "transformers")}


@cache
def _version(name: str) -> str:
    return version(name)


def write_artifact(
    folder: str | Path, layout: Layout, tensors: Mapping[str, Tensor | RowBlocks], data: Mapping[str, Any]
) -> Path:
    """Write one artifact into ``folder``, which is created if missing. Return the file's path.

    Raises:
        OutputError: the file could not be written; an earlier one of the same name is unchanged.
    """
    path = Path(folder) / layout.filename
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")  # no reader accepts half of a surrogate pair
    metadata = {"format": layout.format, "version": str(layout.version), "sith": text}
    write_whole(path, lambda file: write_tensors(file, tensors, metadata))
    return path


def read_artifact(path: Path, layout: Layout) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and check one file: checksums, format, version, names, dtypes, shapes, finiteness.

    Returns:
        the tensors by name, and the JSON object of the metadata.

    Raises:
        ArtifactError: the file does not fit ``layout`` or is damaged; the message names the file and the fault.
        TemporaryError: the file changed meanwhile.
    """
    return read_file_backed(path, layout, None)[:2]


def read_versions(path: Path, *layouts: Layout) -> tuple[dict[str, Tensor], dict[str, Any], Layout]:
    """Read and check a file that may be of any version among ``layouts``, which have one format.

    Returns:
        the tensors, the JSON object, and the layout of the file.

    Raises:
        ArtifactError, TemporaryError: as for :func:`read_artifact`.
    """
    tensors, data, _, layout = _read(path, layouts)
    return tensors, data, layout


def read_file_backed(
    path: Path, layout: Layout, backed: str | None, least: int = 0
) -> tuple[dict[str, Tensor], dict[str, Any], FileBackedRows | None]:
    """Read and check one file as :func:`read_artifact` does, but leave the tensor ``backed`` in a large file.

    A file is large from ``least`` bytes on. The checksum is compared a piece at a time. The caller checks that the
    tensor is finite, since doing so for a whole map of three gigabytes would take several times that much memory.

    Returns:
        the tensors by name, of which ``backed`` is a memory map; the JSON object; and the rows of ``backed``, None
        if it was read.
    """
    return _read(path, (layout,), backed, least)[:3]


def _read(
    path: Path, layouts: Sequence[Layout], backed: str | None = None, least: int = 0
) -> tuple[dict[str, Tensor], dict[str, Any], FileBackedRows | None, Layout]:
    _LOG.debug("reading %s", path)
    tensors: dict[str, Tensor] = {}
    rows, layout = None, layouts[0]
    try:
        # One descriptor for everything: after a writer has replaced the file, a second one would be of another file.
        with TensorFile.read(path) as (found, file):
            version = found.metadata.get("version")
            layout = next((each for each in layouts if str(each.version) == version), layout)
            _check_identity(path, layout, found)
            _check_shapes(path, layout, found)
            found.check_sums(file)
            for name in (name for name in layout.tensors if name in found.entries):
                if name == backed and found.stamp[2] >= least:
                    rows = FileBackedRows(found, found.entries[name])
                    tensors[name] = rows.mapped(file)
                else:
                    tensor = tensors[name] = found.tensor(file, name)
                    require(_finite(tensor), path, f"{name} holds NaN or infinity")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise ArtifactError(f"{path} is not a whole safetensors file ({reason(error)}); {AGAIN}") from None
    return tensors, _data(path, layout, found), rows, layout


def _finite(tensor: Tensor) -> bool:
    """Return whether every number is finite. NaN and infinity show in the extremes, which need no further memory."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _check_identity(path: Path, layout: Layout, file: TensorFile) -> None:
    kind, version = file.metadata.get("format"), file.metadata.get("version")
    if kind != layout.format:
        raise ArtifactError(f"{path} is not a file of format {layout.format} but of {kind!r}; name another file")
    advice = f"this sith-hf reads version {layout.version}: install the release that wrote it, or make it again"
    if version != str(layout.version):
        raise ArtifactError(f"{path}: version {version!r} of {layout.format}; {advice}")
    # A damaged name of the checksums must not look like a file of a release without checksums.
    unknown = sorted(set(file.metadata) - {"format", "version", "sith", CHECKSUMS})
    require(not unknown, path, f"its metadata has unknown keys {unknown}")


def _check_shapes(path: Path, layout: Layout, file: TensorFile) -> None:
    """Check names, dtypes and shapes before any tensor is read."""
    found, wanted = set(file.entries), set(layout.tensors)
    for group in (layout.optional, *layout.parts):
        if not found & set(group):
            wanted -= set(group)
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    require(not missing and not extra, path, f"tensors missing {missing}, unexpected {extra}")
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in layout.tensors.items():
        if name not in found:
            continue
        entry, expected = file.entries[name], axes.split()
        dtypes = {dtype, torch.float16, torch.bfloat16} if name in layout.rounded else {dtype}
        require(
            DTYPES.get(entry.dtype) in dtypes and len(entry.shape) == len(expected),
            path,
            f"{name} must be {dtype} with axes [{', '.join(expected)}]; it is {entry.dtype} {list(entry.shape)}",
        )
        for axis, size in zip(expected, entry.shape, strict=True):
            right = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            require(size == right, path, f"axis {axis} of {name} has {size} entries; expected {right}")


def _data(path: Path, layout: Layout, file: TensorFile) -> dict[str, Any]:
    try:
        data = json.loads(file.metadata.get("sith", "null"))
        # NaN and half of a surrogate pair can be read but not written.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError
        raise ArtifactError(f"{path}: its metadata is not JSON; {AGAIN}") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: its metadata holds no JSON object under 'sith'; {AGAIN}")
    check_data(path, layout.data, data)
    return data


def check_data(path: Path, kinds: Mapping[str, type | tuple[type, ...]], data: Mapping[str, Any]) -> None:
    """Raise ArtifactError unless ``data`` has all keys of ``kinds``, with values of these types."""
    for key, kind in kinds.items():
        require(key in data and isinstance(data[key], kind), path, f"its metadata has no valid {key!r}")


def require(condition: bool, path: Path, complaint: str) -> None:
    """Raise ArtifactError with ``complaint`` and advice unless ``condition`` holds."""
    if not condition:
        raise ArtifactError(f"{path}: {complaint}; {AGAIN}")


def json_texts(value: object, what: str) -> tuple[str, ...]:
    """Return a JSON list of strings as a tuple. Raises InputError for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{what} must be a list of texts; got {type(value).__name__}")
    return tuple(value)
