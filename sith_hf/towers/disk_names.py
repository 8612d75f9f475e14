"""The names of parameters on disk, as transformers' own conversion mapping has them.

A parameter has three names: of the model's module in memory, which changes between releases of transformers; in the
file at hand, which depends on the release that wrote it; and the canonical one, which artifacts use: that of the files
that transformers 4 and 5 both load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from sith_hf.towers.model_class import model_class


@dataclass(frozen=True, eq=False)
class DiskNames:
    """The canonical names of one class of models with one configuration.

    Attributes:
        canonical: the name of each parameter in memory to its canonical name.
        shapes: the shape of each by canonical name; None for a tensor that transformers splits or joins.
        renamings, converters, prefix: what transformers applies to the names in a file.
        tied: canonical names of tensors that transformers fills from others, so that files may lack them.
    """

    canonical: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...] | None]
    renamings: tuple[Any, ...]
    converters: tuple[Any, ...]
    prefix: str
    tied: frozenset[str] = frozenset()

    def of_files(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the canonical name of each name in a file; a name that transformers would not load stays as it is."""
        from transformers.core_model_loading import rename_source_key

        found = {}
        for key in keys:
            name, _ = rename_source_key(
                key, list(self.renamings), list(self.converters), self.prefix, dict(self.canonical)
            )
            found[key] = self.canonical.get(name, key)
        return found


def disk_names(architecture: str, config: Any, *, nested: bool = False, kept: str = "") -> DiskNames:
    """Return the names of the parameters of a class of transformers on disk. Nothing is allocated.

    Args:
        architecture: the name of the class.
        config: its configuration.
        nested: whether files of transformers 4 have the prefix of a tower inside, such as ``vision_model.``, that
            modules of transformers 5 have not (``PrefixChange`` in its mapping).
        kept: the beginning of names that are in files as they are in memory, whatever transformers writes; empty for
            none.
    """
    # Where a model comes from is no part of its names, so copies of one model share them.
    fields = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    content = json.dumps(fields, sort_keys=True, default=str)
    return _disk_names(architecture, content, nested, kept)


@lru_cache(maxsize=16)
def _disk_names(architecture: str, content: str, nested: bool, kept: str) -> DiskNames:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, WeightRenaming, rename_source_key

    kind = model_class(architecture)
    with torch.device("meta"):
        model = kind(kind.config_class.from_dict(json.loads(content)))
    state = model.state_dict()
    if own := getattr(model, "name_on_disk", None):
        shapes = {own(name): tuple(tensor.shape) for name, tensor in state.items()}
        return DiskNames({name: own(name) for name in state}, shapes, (), (), "")
    mapping = get_model_conversion_mapping(model)
    renamings = tuple(item for item in mapping if isinstance(item, WeightRenaming))
    converters = tuple(item for item in mapping if not isinstance(item, WeightRenaming))
    written = [
        item.reverse_transform()
        for item in reversed(get_model_conversion_mapping(model, add_legacy=False))
        if nested or not isinstance(item, PrefixChange)
    ]
    joining = [item for item in written if not isinstance(item, WeightRenaming)]
    renaming = [item for item in written if isinstance(item, WeightRenaming)]
    tied = model.all_tied_weights_keys or {}
    # A converter joins several parameters into one tensor of the file, whose shape is theirs in its own way.
    found = {
        name: (name, None)
        if kept and name.startswith(kept)
        else rename_source_key(name, renaming, joining, reverse=True)
        for name in state
    }
    canonical = {name: renamed for name, (renamed, _) in found.items()}
    return DiskNames(
        canonical=canonical,
        shapes={canonical[name]: tuple(state[name].shape) if found[name][1] is None else None for name in state},
        renamings=renamings,
        converters=converters,
        prefix=model.base_model_prefix,
        tied=frozenset(canonical.get(name, name) for name in tied),
    )
