"""``Checkpoint``: the weights in a folder that ``from_pretrained`` would load, in one file or in shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from sith_hf.core.escaping import one_line, sanitize
from sith_hf.core.reading import json_fields, read_json_object
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.files import DTYPES
from sith_hf.towers.config_file import CONFIG, checkpoints_below, config_json
from sith_hf.towers.family import names_on_disk
from sith_hf.towers.folder_format import OPEN_CLIP, TRANSFORMERS, folder_format
from sith_hf.towers.function import FLOATS
from sith_hf.towers.model_class import config_class
from sith_hf.towers.model_settings import UNUSABLE
from sith_hf.towers.registry import check_outputs, check_place, config_settings, family_of_config, too_deep
from sith_hf.towers.shard import Shard

(SINGLE,), INDEX = TRANSFORMERS.weights, str(TRANSFORMERS.index)
ADAPTER = "adapter_config.json"
_Found = TypeVar("_Found")


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
        found = names_on_disk(family, architecture, config).of_files(keys)
    except UNUSABLE:
        return shards
    names = {key: name for key, name in found.items() if key != name}
    renames = bool(family.kept(architecture)) or (nested and "" in paths.values())
    return tuple(replace(shard, names=names, renames=renames) for shard in shards)


def check_folder(folder: Path, name: str | None = None) -> None:
    """Raise UnsupportedModel if ``from_pretrained`` loads other weights from a checkpoint than its base weights.

    Args:
        folder: the folder of the checkpoint.
        name: its name in messages, such as a Hub id; the folder when None.
    """
    name = name or str(folder)
    alone = not (folder / CONFIG).exists()
    if (folder / ADAPTER).exists():
        merge = "merge_and_unload().save_pretrained(MERGED)"
        if alone:
            raise UnsupportedModel(
                f"{name} holds a PEFT adapter without its base model: run PeftModel.from_pretrained(base, {name!r})."
                f"{merge} and use MERGED"
            )
        raise UnsupportedModel(
            f"{name} holds a PEFT adapter ({ADAPTER}) beside the base weights, and from_pretrained loads both: move "
            "the adapter_* files to a folder ADAPTER; then edit the base, or run PeftModel.from_pretrained(base, "
            f"ADAPTER).{merge} and use MERGED"
        )
    # The reader of the configuration says what is wrong with it.
    other = json_fields(folder / CONFIG).get("transformers_weights")
    if other not in (None, "model.safetensors", "model.safetensors.index.json"):
        raise UnsupportedModel(
            f"config.json of {name} names other weights (transformers_weights: {sanitize(repr(other), 100)}): rename "
            "that file to model.safetensors and remove the key"
        )


def _check_chosen(folder: Path) -> None:
    """Raise UnsupportedModel for the parts of a distributed checkpoint, which ``from_pretrained`` prefers."""
    rank = next(folder.glob("shard-[0-9]*-model-*.safetensors"), None)
    if rank is not None:
        raise UnsupportedModel(
            f"{folder} holds {rank.name}, a part of a distributed checkpoint, which transformers loads in place of "
            f"{SINGLE}: load it there, and save it with save_pretrained"
        )
