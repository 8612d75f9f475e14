"""The safetensors files of a checkpoint folder: which tensor is where, and copying them with some tensors replaced."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sith_hf.errors import InputError, UnsupportedModel

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CHUNK = 16 * 2**20
_MAX_HEADER = 100 * 2**20
# What a CLIPVisionModel of transformers 5 consists of. Other names are not ours to change.
_BARE = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")


def canonical(key: str) -> str:
    """The name of a tensor as every CLIP release on the Hub has it.

    A ``CLIPVisionModel`` that transformers 5 built afresh saves its keys without the prefix ``vision_model.``;
    transformers 4.57 would then fill every tensor with random numbers, without an error.
    """
    return f"vision_model.{key}" if key.startswith(_BARE) else key


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
class Shard:
    """One safetensors file.

    Attributes:
        path: where it is.
        header: its header as JSON.
        data_start: where the bytes of tensors begin.
    """

    path: Path
    header: Mapping[str, Any]
    data_start: int

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read and check the header. Raises InputError for a file that is missing, truncated or no safetensors."""
        try:
            # The library's own check of offsets, sizes and overlaps; the header is then read for the positions.
            with safe_open(path, framework="pt"):
                pass
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, _MAX_HEADER)))
        except (SafetensorError, OSError, ValueError, struct.error) as error:
            raise InputError(f"{path} is not a whole safetensors file ({error}): fetch the checkpoint again") from None
        return cls(path, header, 8 + length)

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The tensors by canonical name. Raises InputError where two have one."""
        found: dict[str, Entry] = {}
        for key, item in self.header.items():
            if key != "__metadata__":
                if canonical(key) in found:
                    raise InputError(f"{self.path} has the tensor {canonical(key)} twice, with and without the prefix")
                start, stop = (self.data_start + offset for offset in item["data_offsets"])
                found[canonical(key)] = Entry(key, item["dtype"], tuple(item["shape"]), start, stop)
        return found

    def tensor(self, key: str) -> Tensor:
        """The tensor of a canonical name."""
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(self.entries[key].key)
        return tensor

    def chunks(self, key: str) -> Iterator[bytes]:
        """The raw bytes of a tensor, a bounded piece at a time."""
        entry = self.entries[key]
        with self.path.open("rb") as file:
            file.seek(entry.start)
            left = entry.stop - entry.start
            while left:
                piece = file.read(min(CHUNK, left))
                left -= len(piece)
                yield piece

    def copy(self, target: Path, replaced: Mapping[str, Tensor]) -> None:
        """Copy the file, with some tensors replaced by others of the same shape and dtype; every other byte is kept.

        Only names that are not canonical are written anew, and then only the header differs.
        """
        if all(canonical(entry.key) == entry.key for entry in self.entries.values()):
            shutil.copyfile(self.path, target)
            shift = 0
        else:
            shift = self._copy_renamed(target)
        with target.open("r+b") as file:
            for key, tensor in replaced.items():
                entry = self.entries[key]
                raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                if len(raw) != entry.stop - entry.start:
                    raise InputError(f"{key}: the replacement has another size than the tensor in {self.path}")
                file.seek(entry.start + shift)
                file.write(raw)

    def _copy_renamed(self, target: Path) -> int:
        header = {key if key == "__metadata__" else canonical(key): item for key, item in self.header.items()}
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        with self.path.open("rb") as source, target.open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            source.seek(self.data_start)
            shutil.copyfileobj(source, file, CHUNK)
        return 8 + len(encoded) - self.data_start


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a folder, whether in one file or in shards.

    Attributes:
        folder: the folder.
        shards: its safetensors files.
        index: the sharded index as JSON, None for a single file.
    """

    folder: Path
    shards: tuple[Shard, ...]
    index: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Find the weights that ``from_pretrained`` would load.

        Raises:
            UnsupportedModel: no safetensors there.
            InputError: damaged files, or an index that does not fit its shards.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        if (folder / SINGLE).is_file():
            return cls(folder, (Shard.read(folder / SINGLE),), None)
        if not (folder / INDEX).is_file():
            raise UnsupportedModel(
                f"{folder} holds neither {SINGLE} nor {INDEX}; sith-hf reads and writes safetensors only: "
                "convert the checkpoint with save_pretrained"
            )
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
            if not names:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{folder / INDEX} is not a sharded index: fetch the checkpoint again") from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise InputError(f"{folder / INDEX} names a shard outside its folder: {name!r}")
        checkpoint = cls(folder, tuple(Shard.read(folder / name) for name in names), index)
        for key, name in index["weight_map"].items():
            shard = checkpoint.where.get(canonical(key))
            if shard is None or shard.path.name != name:
                raise InputError(f"{folder / INDEX} says that {key} is in {name}, and it is not: fetch it again")
        return checkpoint

    @cached_property
    def where(self) -> dict[str, Shard]:
        """Canonical tensor name to the file that holds it."""
        return {key: shard for shard in self.shards for key in shard.entries}

    def tensor(self, key: str) -> Tensor:
        """A tensor by canonical name. Raises InputError when it is not there."""
        if key not in self.where:
            raise InputError(
                f"{self.folder} has no tensor {key}: it is not the kind of checkpoint that the edit is for"
            )
        return self.where[key].tensor(key)

    def canonical_index(self) -> bytes | None:
        """The index with canonical names; None where the file can be copied as it is."""
        if self.index is None or all(canonical(key) == key for key in self.index["weight_map"]):
            return None
        weight_map = {canonical(key): name for key, name in self.index["weight_map"].items()}
        return (json.dumps({**self.index, "weight_map": weight_map}, indent=2) + "\n").encode("utf-8")
