"""The safetensors files of a checkpoint folder: which tensor is where, and copying them with some tensors replaced."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.files import DTYPES, Entry, Header, Stamp, UnchangedFile, raw_bytes, read_header, write_all

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Small enough to stay in the processor's cache between reading and comparing.
CHUNK = 2**18
# What a CLIPVisionModel of transformers 5 consists of. Other names are not ours to change.
_BARE = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")


def canonical(key: str) -> str:
    """The name of a tensor as every CLIP release on the Hub has it.

    A ``CLIPVisionModel`` that transformers 5 built afresh saves its keys without the prefix ``vision_model.``;
    transformers 4.57 would then fill every tensor with random numbers, without an error.
    """
    return f"vision_model.{key}" if key.startswith(_BARE) else key


@dataclass(frozen=True)
class Shard:
    """One safetensors file. Reading it raises TemporaryError if it changed since its header was read.

    Attributes:
        file: the file as it was then.
        header: its header.
    """

    file: UnchangedFile
    header: Header

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read and check the header. Raises InputError for a file that is missing, truncated or no safetensors."""
        try:
            with FileIO(path) as file:
                return cls(UnchangedFile(path, Stamp.of(file)), read_header(file))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a whole safetensors file ({error}): fetch the checkpoint again") from None

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.file.path

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The tensors by canonical name. Raises InputError where two have one."""
        found: dict[str, Entry] = {}
        for key, entry in self.header.entries.items():
            if canonical(key) in found:
                raise InputError(f"{self.path} has the tensor {canonical(key)} twice, with and without the prefix")
            found[canonical(key)] = entry
        return found

    def tensor(self, key: str) -> Tensor:
        """The tensor of a canonical name, in memory of its own. Raises InputError for a dtype that torch has not."""
        entry = self.entries[key]
        if entry.dtype not in DTYPES:
            raise InputError(f"{key} in {self.path} is {entry.dtype}, which sith-hf does not read: convert it")
        tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        self.file.fill(raw_bytes(tensor), entry.start)
        return tensor

    def chunks(self, key: str) -> Iterator[bytes]:
        """The raw bytes of a tensor, a bounded piece at a time."""
        entry = self.entries[key]
        return self.file.pieces(entry.start, entry.stop, CHUNK)

    def copy(self, target: Path, replaced: Mapping[str, Tensor]) -> None:
        """Copy the file, with some tensors replaced by others of the same shape and dtype; every other byte is kept.

        Only names that are not canonical are written anew, and then only the header differs. No copy is a hard link:
        a program that writes to one of the two in place would change the other, which may well be the base in the
        Hub's cache. Copies that share blocks until one is written to have the same price and no such risk.

        Args:
            target: the file to write.
            replaced: tensors by canonical name; each is asked for when it is written, and not kept.

        Raises:
            InputError: a tensor of another size, or a file that changes while it is copied.
        """
        head = self._renamed_header()
        start = self.header.data_start if head else 0
        with target.open("wb", buffering=0) as file:
            write_all(file, head)
            self.file.copy_into(file, start)
            for key in replaced:
                self._overwrite(file, key, replaced[key], len(head) - start)

    def _overwrite(self, file: FileIO, key: str, tensor: Tensor, shift: int) -> None:
        entry, raw = self.entries[key], raw_bytes(tensor.detach().cpu().contiguous())
        if len(raw) != entry.stop - entry.start:
            raise InputError(f"{key}: the replacement has another size than the tensor in {self.path}")
        file.seek(entry.start + shift)
        write_all(file, raw)

    def _renamed_header(self) -> bytes:
        """The header with canonical names, and its length before it; nothing where all names are canonical."""
        if all(canonical(entry.key) == entry.key for entry in self.entries.values()):
            return b""
        header = {key if key == "__metadata__" else canonical(key): item for key, item in self.header.fields.items()}
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        return struct.pack("<Q", len(encoded)) + encoded


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
