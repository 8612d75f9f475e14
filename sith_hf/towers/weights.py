"""The files of a checkpoint folder: finding tensors, copying with some replaced, and configurations without paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

from torch import Tensor

from sith_hf.core.reading import read_text
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.files import DTYPES, Entry, TensorFile, raw_bytes, write_all

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIGS = ("config.json", "tokenizer_config.json")
_PATH_KEYS = ("_name_or_path", "name_or_path")
# The parts of a CLIPVisionModel of transformers 5; other names stay.
_BARE = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")


def canonical(key: str) -> str:
    """Return a tensor's name as in every CLIP release on the Hub.

    A ``CLIPVisionModel`` made by transformers 5 saves its keys without the prefix ``vision_model.``; transformers 4.57
    would fill every such tensor with random numbers, without an error.
    """
    return f"vision_model.{key}" if key.startswith(_BARE) else key


@dataclass(frozen=True)
class Shard:
    """One safetensors file. Methods raise TemporaryError if it has changed since its header was read."""

    file: TensorFile

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read and check the header. Raises InputError unless the file is whole."""
        try:
            with TensorFile.read(path) as (found, _):
                return cls(found)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a whole safetensors file ({error}): fetch the checkpoint again") from None

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The tensors by canonical name. Raises InputError if two have the same."""
        found: dict[str, Entry] = {}
        for key, entry in self.file.entries.items():
            if canonical(key) in found:
                raise InputError(f"{self.path} has {canonical(key)} twice, with and without the prefix: remove one")
            found[canonical(key)] = entry
        return found

    def tensor(self, key: str) -> Tensor:
        """Read a tensor by canonical name. Raises InputError for a dtype that torch lacks."""
        entry = self.entries[key]
        if entry.dtype not in DTYPES:
            raise InputError(f"{key} in {self.path} is {entry.dtype}, which sith-hf does not read: convert it")
        with self.file.opened() as file:
            return self.file.tensor(file, entry.key)

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the raw bytes of a tensor, a bounded piece at a time."""
        entry = self.entries[key]
        with self.file.opened() as file:
            yield from self.file.pieces(file, entry.start, entry.stop)

    def copy(self, target: Path, replaced: Mapping[str, Tensor]) -> None:
        """Copy the file, with some tensors replaced by others of the same shape and dtype.

        Every other byte is kept, except that the header gets canonical names. The copy is never a hard link: a program
        that writes into it would change the original, perhaps in the Hub's cache.

        Args:
            target: the file to write.
            replaced: tensors by canonical name, also of other files; each is read when it is written, and not kept.

        Raises:
            InputError: a tensor of another size, or the file changes while it is copied.
        """
        head = self._renamed_header()
        start = 8 + len(self.file.raw) if head else 0
        with target.open("wb", buffering=0) as file:
            write_all(file, head)
            self.file.copy_into(file, start)
            for key in replaced:
                if key in self.entries:
                    self._overwrite(file, key, replaced[key], len(head) - start)

    def _overwrite(self, file: FileIO, key: str, tensor: Tensor, shift: int) -> None:
        entry, raw = self.entries[key], raw_bytes(tensor.detach().cpu().contiguous())
        if len(raw) != entry.stop - entry.start:
            raise InputError(f"{key}: the replacement has another size than the tensor in {self.path}")
        file.seek(entry.start + shift)
        write_all(file, raw)

    def _renamed_header(self) -> bytes:
        """Return the length and bytes of a header with canonical names; empty if all names are canonical."""
        if all(canonical(entry.key) == entry.key for entry in self.entries.values()):
            return b""
        header = {key if key == "__metadata__" else canonical(key): item for key, item in self.file.fields.items()}
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        return len(encoded).to_bytes(8, "little") + encoded


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a folder, in one file or in shards.

    Attributes:
        folder: the folder.
        shards: its safetensors files.
        index: the index of the shards as JSON; None for a single file.
    """

    folder: Path
    shards: tuple[Shard, ...]
    index: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Find the weights that ``from_pretrained`` would load.

        Raises:
            UnsupportedModel: the folder has no safetensors weights.
            InputError: a file is damaged, or the index does not fit the shards.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: name the folder of a checkpoint")
        if (folder / SINGLE).is_file():
            return cls(folder, (Shard.read(folder / SINGLE),), None)
        if not (folder / INDEX).is_file():
            raise UnsupportedModel(
                f"{folder} holds neither {SINGLE} nor {INDEX}; sith-hf reads and writes safetensors only: "
                "convert the checkpoint with save_pretrained"
            )
        try:
            index = json.loads(read_text(folder / INDEX))
            names = sorted(set(index["weight_map"].values()))
            if not names:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{folder / INDEX} is not a sharded index: fetch the checkpoint again") from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise InputError(f"{folder / INDEX} names a shard outside its folder, {name!r}: fetch it again")
        checkpoint = cls(folder, tuple(Shard.read(folder / name) for name in names), index)
        for key, name in index["weight_map"].items():
            shard = checkpoint.where.get(canonical(key))
            if shard is None or shard.path.name != name:
                raise InputError(f"{folder / INDEX} names {name} as the file of {key}, which lacks it: fetch it again")
        return checkpoint

    @cached_property
    def where(self) -> dict[str, Shard]:
        """The file of each tensor, by canonical name."""
        return {key: shard for shard in self.shards for key in shard.entries}

    def tensor(self, key: str) -> Tensor:
        """Read a tensor by canonical name. Raises InputError if it is missing."""
        if key not in self.where:
            raise InputError(f"{self.folder} has no tensor {key}: the edit is for another kind of checkpoint")
        return self.where[key].tensor(key)

    def canonical_index(self) -> bytes | None:
        """Return the index with canonical names; None if all names are canonical."""
        if self.index is None or all(canonical(key) == key for key in self.index["weight_map"]):
            return None
        weight_map = {canonical(key): name for key, name in self.index["weight_map"].items()}
        return (json.dumps({**self.index, "weight_map": weight_map}, indent=2) + "\n").encode("utf-8")


def published(path: Path) -> bytes | None:
    """Return a configuration file without the local paths that transformers before 5 saved; None if it has none."""
    try:
        data = json.loads(read_text(path))
        local = [key for key in _PATH_KEYS if str(data.get(key, "")).startswith(("/", "~", ".", "\\"))]
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    kept = {key: value for key, value in data.items() if key not in local}
    return (json.dumps(kept, indent=2) + "\n").encode("utf-8") if local else None
