"""The files of a checkpoint folder: finding tensors, copying with some replaced, and configurations without paths."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from sith_hf.core.escaping import one_line, sanitize
from sith_hf.core.reading import json_fields, read_json_object, reason
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.files import DTYPES, Entry, TensorFile, raw_bytes, write_all
from sith_hf.towers.disk_names import KEPT, disk_names
from sith_hf.towers.folder_format import OPEN_CLIP, TRANSFORMERS, folder_format
from sith_hf.towers.function import FLOATS, check_folder
from sith_hf.towers.model_class import config_class
from sith_hf.towers.model_settings import UNUSABLE
from sith_hf.towers.open_clip_config import open_clip_config
from sith_hf.towers.registry import check_outputs, check_place, config_settings, family_of_config, too_deep

(SINGLE,), INDEX = TRANSFORMERS.weights, str(TRANSFORMERS.index)
CONFIG = TRANSFORMERS.config
CONFIGS = (CONFIG, "tokenizer_config.json")
_PATH_KEYS = ("_name_or_path", "name_or_path")
_LOCAL = re.compile(r"[/~.\\]|[A-Za-z]:[/\\]")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Shard:
    """One safetensors file. Methods raise TemporaryError if it has changed since its header was read.

    Attributes:
        file: the file.
        names: the canonical names of tensors that have another in the file (:mod:`sith_hf.towers.disk_names`).
        renames: whether a copy gets the canonical names.
    """

    file: TensorFile
    names: Mapping[str, str] = field(default_factory=dict)
    renames: bool = False

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read and check the header. Raises InputError unless the file is whole."""
        try:
            with TensorFile.read(path) as (found, _):
                return cls(found)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} is not a whole safetensors file ({reason(error)}): fetch the checkpoint again"
            ) from None

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The tensors by canonical name. Raises InputError if two have the same."""
        found: dict[str, Entry] = {}
        for key, entry in self.file.entries.items():
            name = self.names.get(key, key)
            if name in found:
                raise InputError(f"{self.path} has {name} twice, with and without the prefix: remove one")
            found[name] = entry
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

        Every other byte is kept, except that the header of a tower saved by itself gets canonical names, since
        transformers 4 would fill tensors of other names with random numbers, without an error. The copy is never a
        hard link: a program that writes into it would change the original, perhaps in the Hub's cache.

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
        """Return the length and bytes of a header with canonical names; empty if the names stay."""
        if not self.renames or not self.names.keys() & self.file.entries.keys():
            return b""
        header = {self.names.get(key, key): item for key, item in self.file.fields.items()}
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
            UnsupportedModel: the folder has no safetensors weights, or ``from_pretrained`` loads others too.
            InputError: a file is damaged, or the index does not fit the shards.
        """
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: name the folder of a checkpoint")
        if folder_format(folder) is OPEN_CLIP:
            return cls._of_open_clip(folder)
        check_folder(folder)
        _check_chosen(folder)
        if (folder / SINGLE).is_file():
            return cls(folder, _named(folder, (Shard.read(folder / SINGLE),)), None)
        if not (folder / INDEX).is_file() and (advice := checkpoints_below(folder)):
            raise InputError(f"{folder}: no checkpoint there (it has no {SINGLE}); {advice}")
        if not (folder / INDEX).is_file():
            raise UnsupportedModel(
                f"{folder} has no weights in {SINGLE} or {INDEX}; sith-hf reads and writes safetensors only, and "
                "unpickles nothing: convert the checkpoint with save_pretrained"
            )
        index = read_json_object(folder / INDEX, "fetch the checkpoint again")
        try:
            names = sorted(set(index["weight_map"].values()))
            if not names or not isinstance(index["metadata"], dict):  # transformers needs both
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{folder / INDEX} is not a sharded index: fetch the checkpoint again") from None
        for name in names:
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise InputError(
                    f"{folder / INDEX} names the shard {sanitize(repr(name))}, not a .safetensors file beside it: "
                    "fetch the checkpoint again"
                )
        checkpoint = cls(folder, _named(folder, tuple(Shard.read(folder / name) for name in names)), index)
        holders = {key: shard for shard in checkpoint.shards for key in shard.file.entries}
        for key, name in index["weight_map"].items():
            shard = holders.get(key)
            if shard is None or shard.path.name != name:
                other = "which lacks it" if shard is None else f"but {shard.path.name} holds a tensor of this name"
                raise InputError(f"{folder / INDEX} names {name} as the file of {key}, {other}: fetch it again")
        return checkpoint

    @classmethod
    def _of_open_clip(cls, folder: Path) -> Checkpoint:
        found = OPEN_CLIP.single(folder)
        if found is None:
            raise UnsupportedModel(
                f"{folder} has no weights in {' or '.join(OPEN_CLIP.weights)}; sith-hf reads and writes safetensors "
                "only, and unpickles nothing: convert the checkpoint with open_clip's push_to_hf_hub, or with "
                "safetensors.torch.save_file(model.state_dict(), ...)"
            )
        return cls(folder, (Shard.read(found),), None)

    @cached_property
    def where(self) -> dict[str, Shard]:
        """The file of each tensor, by canonical name."""
        return {key: shard for shard in self.shards for key in shard.entries}

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """The narrowest dtype that holds every float tensor exactly; None without one.

        ``logit_scale``, one number that embeddings do not depend on, does not count.
        """
        entries = [shard.entries[key] for key, shard in self.where.items() if key != "logit_scale"]
        found = sorted({DTYPES[entry.dtype] for entry in entries if DTYPES.get(entry.dtype) in FLOATS}, key=str)
        return reduce(torch.promote_types, found) if found else None

    def settings(self, tower: str | None = None) -> dict[str, Any]:
        """Return the settings of a tower in ``config.json`` (:func:`tower_settings`); none without that file.

        Args:
            tower: ``"vision"`` or ``"text"``; the model's first tower when None.

        Raises:
            UnsupportedModel: another family or architecture.
            InputError: ``config.json`` is damaged.
        """
        return self._from_config(lambda raw: config_settings(raw, tower)) or {}

    def check_place(self, family: str, tower: str, layers: Iterable[int]) -> None:
        """Check that an edit belongs to this model (:func:`sith_hf.towers.registry.check_place`).

        A folder without a configuration is not checked.

        Raises:
            BaseMismatch: a model of another family, or without that tower.
            UnsupportedModel: also for a layer whose output the model does not read.
            InputError: ``config.json`` is damaged.
        """
        self._from_config(lambda raw: check_place(family, tower, layers, raw, str(self.folder)))

    def check_outputs(self, tower: str, outputs: Mapping[int, tuple[str, str | None]]) -> None:
        """Check the names of the tensors that an edit changes (:func:`sith_hf.towers.registry.check_outputs`).

        Raises:
            BaseMismatch: other tensors than the output projections of the layers.
            InputError: ``config.json`` is damaged.
        """
        self._from_config(lambda raw: check_outputs(tower, outputs, raw, len(self.where)))

    def _from_config(self, read: Callable[[dict[str, Any]], _Found]) -> _Found | None:
        path = self.folder / folder_format(self.folder).config
        if not path.exists():
            return None
        try:
            return read(config_json(self.folder, "restore the file"))
        except InputError:
            raise
        except (OSError, ValueError, AttributeError, TypeError, StrictDataclassError, RecursionError) as error:
            raise InputError(f"{path} is of no model that is supported ({one_line(error)}): restore the file") from None

    def tensor(self, key: str) -> Tensor:
        """Read a tensor by canonical name. Raises InputError if it is missing."""
        if key not in self.where:
            raise InputError(f"{self.folder} has no tensor {key}: the edit is for another kind of checkpoint")
        return self.where[key].tensor(key)

    def canonical_index(self) -> bytes | None:
        """Return the index with the names that a copy has; None if they stay."""
        names = {key: name for shard in self.shards if shard.renames for key, name in shard.names.items()}
        if self.index is None or not names:
            return None
        weight_map = {names.get(key, key): name for key, name in self.index["weight_map"].items()}
        return (json.dumps({**self.index, "weight_map": weight_map}, indent=2) + "\n").encode("utf-8")


def _named(folder: Path, shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    """Return shards that know the canonical names of their tensors, as ``config.json`` names the class of the model."""
    raw = json_fields(folder / CONFIG)
    try:
        family, architecture = family_of_config(raw)
    except InputError:
        return shards  # who loads the model says what is wrong
    keys = [key for shard in shards for key in shard.file.entries]
    paths, nested = family.towers(architecture), family.nested(architecture)
    prefixes = tuple(f"{family.prefix(kind)}." for kind in paths)
    # Most files have the canonical names, and importing the class of the model takes two seconds.
    named = all if nested else any
    if all(named(key.startswith(prefix) for key in keys) for prefix in prefixes):
        return shards
    try:
        config = config_class(raw["model_type"]).from_dict(dict(raw))
        if too_deep(config, len(keys)):
            return shards
        found = disk_names(architecture, config, nested=nested).of_files(keys)
    except UNUSABLE:
        return shards
    names = {key: name for key, name in found.items() if key != name}
    renames = architecture in KEPT or (nested and "" in paths.values())
    return tuple(replace(shard, names=names, renames=renames) for shard in shards)


def config_json(folder: Path, advice: str) -> dict[str, Any]:
    """Return the JSON of ``config.json``, or what it would be for a folder of open_clip.

    Raises:
        UnsupportedModel: a folder of open_clip with another kind of model.
        InputError: it is missing or damaged; the message ends with ``advice``.
    """
    if folder_format(folder) is OPEN_CLIP:
        return open_clip_config(folder)
    return read_json_object(folder / CONFIG, advice)


def checkpoints_below(folder: Path) -> str | None:
    """Return advice for a folder above checkpoints: of sentence-transformers, Trainer or the Hub's cache; else None."""
    try:
        found = sorted({path.parent for pattern in ("*", "snapshots/*") for path in folder.glob(f"{pattern}/{CONFIG}")})
    except OSError:
        return None
    return f"name a folder below it: {', '.join(map(str, found[:3]))}" if found else None


def _check_chosen(folder: Path) -> None:
    """Raise UnsupportedModel for the parts of a distributed checkpoint, which ``from_pretrained`` prefers."""
    rank = next(folder.glob("shard-[0-9]*-model-*.safetensors"), None)
    if rank is not None:
        raise UnsupportedModel(
            f"{folder} holds {rank.name}, a part of a distributed checkpoint, which transformers loads in place of "
            f"{SINGLE}: load it there, and save it with save_pretrained"
        )


def published(path: Path) -> bytes | None:
    """Return a configuration file without the local paths that transformers before 5 saved; None if it has none."""
    data = json_fields(path)
    # The configurations of the two towers are objects in that of the model.
    kept = _public({key: _public(value) if isinstance(value, dict) else value for key, value in data.items()})
    return (json.dumps(kept, indent=2) + "\n").encode("utf-8") if kept != data else None


def _public(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in _PATH_KEYS or not _LOCAL.match(str(value))}
