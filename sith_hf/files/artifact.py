"""Our safetensors files: one way to write them whole or not at all, one way to read them with suspicion.

A file of ours says in its metadata what it is (``format``) and in which version (``version``); everything
else that is not a tensor is one JSON object under ``sith``. The layouts of DESIGN.md are frozen data beside
the class that they belong to.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sith_hf.errors import ArtifactError, InputError, OutputError, SithError


@dataclass(frozen=True)
class Layout:
    """What a file of ours must hold.

    Attributes:
        format: the name in the metadata, such as ``sith-hf/edit-spec``.
        version: the version that this release writes and reads.
        filename: the name that the file has in its folder.
        tensors: name to (dtype, shape). A shape is a string of axis names, such as ``"N D"``; the same name
            means the same size throughout the file, and a number means just that size.
        data: the keys that the JSON object must have, with their types.
        repo_type: the kind of Hub repository that it is published in.
    """

    format: str
    version: int
    filename: str
    tensors: Mapping[str, tuple[torch.dtype, str]]
    data: Mapping[str, type | tuple[type, ...]]
    repo_type: str = "model"


def text_tensors(texts: Sequence[str]) -> dict[str, Tensor]:
    """Texts as safetensors can hold them: their UTF-8 bytes end to end, and the offset of each and of the end."""
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


def write_artifact(folder: str | Path, layout: Layout, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> Path:
    """Write one file of ours into ``folder``, which is made if it is missing. Returns the file's path.

    Raises:
        OutputError: the file could not be written whole; an earlier one under its name is then still there.
    """
    path = Path(folder) / layout.filename
    metadata = {
        "format": layout.format,
        "version": str(layout.version),
        "sith": json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False),
    }
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    write_whole(path, _sorted_header(content))
    return path


def _sorted_header(content: bytes) -> bytes:
    """The same file with its header in one order: the library's own order changes from run to run."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` under ``path`` so that nobody ever sees half of it. Raises OutputError."""
    temporary: str | None = None
    made = False
    try:
        made = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary, made = None, False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} could not be written ({reason}); nothing was left there") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if made:
            with suppress(OSError):
                path.parent.rmdir()


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """A folder to write files into, which move into ``folder`` together when the block ends well, or not at all.

    Raises:
        OutputError: a file could not be written or moved.
    """
    target = Path(folder)
    made = False
    try:
        made = not target.exists()
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".sith-hf.", suffix=".partial") as temporary:
            yield Path(temporary)
            for path in sorted(p for p in Path(temporary).rglob("*") if p.is_file()):
                final = target / path.relative_to(temporary)
                final.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, final)
        made = False
    except (OSError, ValueError) as error:
        # What is wrong with the block's own input is not about this folder.
        if isinstance(error, SithError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} could not be written ({reason}); nothing was changed there") from error
    finally:
        if made:
            with suppress(OSError):
                target.rmdir()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def library_versions() -> dict[str, str]:
    """The versions that a result depends on, for its provenance."""
    return {name: version(name) for name in ("sith-hf", "torch", "transformers")}


def read_artifact(path: Path, layout: Layout) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and check one file of ours: format, version, names, dtypes, shapes, finiteness.

    Returns:
        the tensors by name, and the JSON object of the metadata.

    Raises:
        ArtifactError: anything is not as ``layout`` says; the message names the file and the fault.
    """
    again = "make it again, or fetch it again"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            check_identity(path, layout, metadata)
            names = set(file.keys())
            if names != set(layout.tensors):
                missing, extra = sorted(set(layout.tensors) - names), sorted(names - set(layout.tensors))
                raise ArtifactError(f"{path}: tensors missing {missing}, unexpected {extra}; {again}")
            tensors = {name: file.get_tensor(name) for name in layout.tensors}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error}); {again}") from None
    check_tensors(path, layout, tensors)
    try:
        data = json.loads(metadata.get("sith", "null"))
        # What could not be written again is no JSON of ours: NaN, half of a surrogate pair.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError
        raise ArtifactError(f"{path}: its metadata is not JSON; {again}") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: its metadata holds no JSON object under 'sith'; {again}")
    for key, kind in layout.data.items():
        if key not in data or not isinstance(data[key], kind):
            raise ArtifactError(f"{path}: its metadata has no valid {key!r}; {again}")
    return tensors, data


def check_identity(path: Path, layout: Layout, metadata: Mapping[str, str]) -> None:
    found = metadata.get("format")
    if found != layout.format:
        raise ArtifactError(f"{path} is not a file of format {layout.format} (its metadata says {found!r})")
    if metadata.get("version") != str(layout.version):
        raise ArtifactError(
            f"{path}: version {metadata.get('version')!r} of {layout.format}; this sith-hf reads version "
            f"{layout.version}: install the release that wrote it, or make it again"
        )


def check_tensors(path: Path, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in layout.tensors.items():
        tensor, expected = tensors[name], axes.split()
        if tensor.dtype != dtype or tensor.ndim != len(expected):
            raise ArtifactError(
                f"{path}: {name} should be {dtype} with axes [{', '.join(expected)}]; "
                f"it is {tensor.dtype} of shape {list(tensor.shape)}"
            )
        for axis, size in zip(expected, tensor.shape, strict=True):
            wanted = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            if size != wanted:
                raise ArtifactError(f"{path}: axis {axis} of {name} has {size} entries where {wanted} were expected")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ArtifactError(f"{path}: {name} holds NaN or infinity; make the file again")


def require(condition: bool, path: Path, complaint: str) -> None:
    """Raise ArtifactError with ``complaint`` unless ``condition`` holds."""
    if not condition:
        raise ArtifactError(f"{path}: {complaint}")


def json_texts(value: object, what: str) -> tuple[str, ...]:
    """A JSON list of strings as a tuple. Raises InputError otherwise."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{what} must be a list of texts")
    return tuple(value)
