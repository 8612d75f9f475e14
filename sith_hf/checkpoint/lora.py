"""Export an edit as a LoRA adapter that ``peft`` loads beside the base.

An edit adds a low-rank matrix and a constant to the output projection of a layer, as a LoRA adapter with a bias does.
The files have the layout that peft documents (https://huggingface.co/docs/peft/developer_guides/checkpoint); the
export does not need peft.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from safetensors.torch import save
from torch import Tensor, nn

from sith_hf.cards import (
    CITATION,
    CUT,
    FOLD,
    command,
    edit_setting_rows,
    edit_tags,
    explained,
    headline,
    hub_base,
    is_wordless,
    render,
    silent_poles,
    summary,
    towers_of,
    vector_rows,
)
from sith_hf.core.escaping import sanitize
from sith_hf.edits import AnySpec, EditSpec
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.files import library_versions, new_folder
from sith_hf.hub import CARD
from sith_hf.towers import family_named, family_with, number_of_layers

# peft's two files, and its prefix of every module's name.
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WRAPPED = "base_model.model."
# A file may claim any depth, and the modules of a model of that depth are made.
_DEEPEST = 1000


@dataclass(frozen=True, eq=False)
class LoraFactors:
    """The edit of one layer in LoRA's form: ``out_proj(x) + up @ (down @ x) + bias``, a row of ``down`` per term.

    Attributes:
        down: lora_A, ``[r, D]`` float32; a term's row is zero outside its head's columns.
        up: lora_B, ``[D, r]`` float32.
        bias: ``[D]`` float32, the bias of lora_B.
    """

    down: Tensor
    up: Tensor
    bias: Tensor


def lora_factors(spec: EditSpec) -> dict[int, LoraFactors]:
    """Return the edit of each layer of a tower as a product of two factors, terms in its order (Method, sec. 6).

    The largest entries of a term's two factors are balanced to within a factor of two by a power of two, which rounds
    nothing, so that both survive half precision.

    Raises:
        InputError: a change beyond float32.
    """
    found = {}
    for layer in spec.layers:
        change = spec.change(layer)
        here = (spec.layer == layer).nonzero().flatten().tolist()
        size, head_size = spec.write.shape[1], spec.row.shape[1]
        down = torch.zeros(len(here), size, dtype=torch.float64)
        up = torch.zeros(size, len(here), dtype=torch.float64)
        for number, i in enumerate(here):
            start = int(spec.head[i]) * head_size
            read, write = spec.row[i].double(), (float(spec.gain[i]) - 1) * spec.columns[i].double()
            one, other = float(read.abs().max()), float(write.abs().max())
            scale = 2.0 ** round((math.log2(other) - math.log2(one)) / 2) if one and other else 1.0
            down[number, start : start + head_size] = read * scale
            up[:, number] = write / scale
        factors = LoraFactors(down.float(), up.float(), change.bias.float())
        products = [delta.float() for delta in change.heads.values()]
        if not all(t.isfinite().all() for t in (factors.down, factors.up, factors.bias, *products)):
            raise InputError(f"the edit of layer {layer} overflows float32: use smaller gains")
        found[layer] = factors
    return found


def output_projections(spec: EditSpec, architecture: str) -> dict[int, str]:
    """Return the path of the output projection of each edited layer of a tower in a model of a class.

    It is read from the installed ``transformers``: an adapter with another name would edit nothing, and from
    transformers 5.6 on a ``CLIPVisionModel`` has other names than the two classes that contain one.

    Raises:
        UnsupportedModel: the class is not supported, or does not have the tower of the edit; or the edit changes an
            attention-pooling head that calls no module for its output projection.
    """
    import transformers

    known = _classes_with(spec)
    if not hasattr(transformers, known[0]):
        raise UnsupportedModel(
            f"this edit is of a model of {spec.place.family}, and peft adapts the classes of transformers: save-edited "
            "writes the edited folder"
        )
    if architecture not in known:
        raise UnsupportedModel(
            f"{architecture!r} is no class with {spec.place.title}, which the edit is of; use one of {', '.join(known)}"
        )
    depth = spec.base.settings.get("num_hidden_layers", max(spec.layers) + 1)
    count = number_of_layers({"num_hidden_layers": depth, **spec.base.settings})
    if not isinstance(depth, int) or not max(spec.layers) < count <= _DEEPEST:
        raise InputError(
            f"the edit is of layer {max(spec.layers)} of a tower of {sanitize(repr(count), 60)} layers; expected at "
            f"most {_DEEPEST}: make it again"
        )
    return _output_projections(spec.place.family, architecture, spec.tower, depth, tuple(spec.layers))


def architectures(spec: AnySpec) -> list[str]:
    """Return the classes of models with the towers of an edit; the first is the default of an adapter."""
    found = [_classes_with(part) for part in spec.parts]
    return [name for name in found[0] if all(name in names for names in found)]


def _classes_with(spec: EditSpec) -> list[str]:
    family = family_named(spec.place.family)
    return [name for names in family.model_types.values() for name in names if spec.tower in family.towers(name)]


def _check_called(module: nn.Module, layer: int) -> None:
    """Raise UnsupportedModel for an output projection in an ``nn.MultiheadAttention``, such as SigLIP's pool.

    Its ``forward`` reads that projection's weight and does not call it, so that an adapter there changes nothing until
    it is merged. An adapter of the whole module adds the change of the output projection twice (peft 0.21).
    """
    if isinstance(module, nn.MultiheadAttention):
        raise UnsupportedModel(
            f"layer {layer} is the attention-pooling head, an nn.MultiheadAttention, whose output projection no LoRA "
            "adapter of peft changes: export an edit without this layer, or save the edited checkpoint"
        )


@cache
def _output_projections(
    family: str, architecture: str, kind: str, depth: int, layers: tuple[int, ...]
) -> dict[int, str]:
    import transformers

    model_class = getattr(transformers, architecture)
    config = model_class.config_class()
    getattr(config, f"{kind}_config", config).num_hidden_layers = depth
    with torch.device("meta"):
        model = model_class(config)
    tower, path = family_named(family).locate(model, kind)
    paths = family_named(family).outputs(tower)
    for layer in layers:
        if layer < len(paths):
            _check_called(tower.get_submodule(paths[layer].rpartition(".")[0]), layer)
    return {layer: f"{path}.{paths[layer]}" if path else paths[layer] for layer in layers if layer < len(paths)}


def adapter_config(spec: AnySpec, architecture: str | None = None) -> dict[str, Any]:
    """Return the content of ``adapter_config.json``, with keys that every peft for transformers 5 knows.

    Args:
        spec: the edit.
        architecture: the class of the base; the first of :func:`architectures` when None.

    Raises:
        UnsupportedModel: as for :func:`output_projections`.
    """
    import transformers

    architecture = architecture or architectures(spec)[0]
    ranks: dict[str, int] = {}
    for part in spec.parts:
        paths = output_projections(part, architecture)
        ranks |= {paths[layer]: part.layer.tolist().count(layer) for layer in part.layers}
    base = hub_base(spec.base)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {
            "base_model_class": architecture,
            "parent_library": getattr(transformers, architecture).__module__,
        },
        "base_model_name_or_path": base,
        "revision": None if base is None else spec.base.revision,
        "inference_mode": True,
        # One pattern, not a list: peft matches a listed name as a suffix, and would find encoder.layers.0 twice in a
        # CLIPModel, load nothing there, and not report it.
        "target_modules": "|".join(re.escape(module) for module in ranks),
        # The scale is 1 everywhere, also for readers that ignore the patterns.
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "lora_bias": True,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def export_adapter(
    spec: AnySpec, folder: str | Path, architecture: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write the edit as a LoRA adapter: ``adapter_config.json``, ``adapter_model.safetensors`` and a card.

    ``PeftModel.from_pretrained(base, folder)`` is the edited model, for a ``base`` of the class ``architecture`` with
    the weights that the edit was made for; peft does not check these. The adapter's scale is the strength of the
    edit, bias included.

    Args:
        spec: the edit, of one tower or of both.
        folder: a folder that does not exist, is empty, or already holds this very adapter, which then stays.
        architecture: the class of the base, one of :func:`architectures`; the first of them when None, such as
            ``CLIPModel``. An adapter for a ``CLIPModel`` also fits a ``CLIPVisionModelWithProjection`` or
            ``CLIPTextModelWithProjection``; a ``CLIPVisionModel`` or ``CLIPTextModel`` needs its own.
        overwrite: replace another adapter in ``folder``, once the new one is complete.

    Returns:
        the folder.

    Raises:
        InputError: a spec that changes nothing or reverts, a folder that is not empty, or a change beyond float32.
        UnsupportedModel: the class is not supported, or does not have the towers of the edit.
        OutputError: the folder could not be written; it is unchanged.
    """
    if not spec:
        raise InputError("the edit changes nothing: every gain is 1")
    if spec.reverts:
        raise InputError("this spec removes an edit: export the edit itself, and unload its adapter to get the base")
    config = adapter_config(spec, architecture)
    tensors: dict[str, Tensor] = {}
    for part in spec.parts:
        paths = output_projections(part, config["auto_mapping"]["base_model_class"])
        for layer, one in lora_factors(part).items():
            stem = f"{_WRAPPED}{paths[layer]}.lora_"
            tensors |= {f"{stem}A.weight": one.down, f"{stem}B.weight": one.up, f"{stem}B.bias": one.bias}
    card = adapter_card(spec, config)
    earlier = Path(folder, CONFIG).is_file()
    if overwrite and not earlier and Path(folder).is_dir() and any(Path(folder).iterdir()):
        raise InputError(f"{folder} is not empty and holds no adapter: name a new folder")  # it may be the base
    with new_folder(Path(folder), overwrite=overwrite, repeats=lambda _: earlier) as work:
        (work / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (work / WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))
        (work / CARD).write_text(card, encoding="utf-8")
    return Path(folder)


def adapter_card(spec: AnySpec, config: Mapping[str, Any]) -> str:
    """Return the README.md of an adapter with this ``adapter_config.json``."""
    base = config["base_model_name_or_path"]
    relation = None if base is None else "adapter"
    tags = [*edit_tags(spec), "lora"]
    metadata = ModelCardData(base_model=base, base_model_relation=relation, library_name="peft", tags=tags)
    rows, architecture = vector_rows(spec), config["auto_mapping"]["base_model_class"]
    fitting, others = _fitting(spec, architecture)
    body = render(
        "adapter.md.j2",
        base=base,
        revision=config["revision"],
        architecture=architecture,
        fitting=fitting,
        others=others,
        bare=family_with(architecture).nested(architecture),
        towers=towers_of(spec),
        headline=headline(spec),
        summary=summary(spec),
        export_command=command(
            "sith-hf", "export-adapter", "path/to/the/spec", "--architecture", architecture, "-o", "again"
        ),
        silent=silent_poles(spec),
        rows=rows[:CUT],
        cut=max(0, len(rows) - CUT),
        fold=len(rows) > FOLD,
        explained=explained(spec),
        wordless=is_wordless(spec),
        settings=edit_setting_rows(spec),
        fingerprints=sorted((key, spec.base.sha256.get(key, "not recorded")) for key in spec.touched_keys),
        citation=CITATION,
        versions=library_versions(),
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n"


def _fitting(spec: AnySpec, architecture: str) -> tuple[list[str], list[str]]:
    """Return the classes that an adapter for ``architecture`` fits, and those whose layers have other names."""
    named = {name: [output_projections(part, name) for part in spec.parts] for name in architectures(spec)}
    fitting = [name for name in named if named[name] == named[architecture]]
    return fitting, [name for name in named if name not in fitting]
