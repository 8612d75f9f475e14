"""The families that are supported, and the one of a model or of a configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from sith_hf.core.escaping import sanitize
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.towers.aimv2 import AIMV2
from sith_hf.towers.altclip import ALTCLIP
from sith_hf.towers.chinese_clip import CHINESE_CLIP
from sith_hf.towers.clip import CLIP
from sith_hf.towers.clipseg import CLIPSEG
from sith_hf.towers.dinov2 import DINOV2
from sith_hf.towers.dinov3_vit import DINOV3_VIT
from sith_hf.towers.family import TowerFamily, names_on_disk
from sith_hf.towers.function import check_class, check_parts, unwrapped
from sith_hf.towers.llava import LLAVA
from sith_hf.towers.metaclip_2 import METACLIP_2
from sith_hf.towers.mlcd import MLCD
from sith_hf.towers.model_class import config_class, model_class
from sith_hf.towers.open_clip import OPEN_CLIP
from sith_hf.towers.owlvit import OWLV2, OWLVIT
from sith_hf.towers.refusals import refusal
from sith_hf.towers.siglip import SIGLIP, SIGLIP2
from sith_hf.towers.tensors import Tensors
from sith_hf.towers.tower import TOWERS, Tower, check_writable

# A family's file is named after it; its models need this line and no other.
FAMILIES: tuple[TowerFamily, ...] = (
    CLIP,
    METACLIP_2,
    ALTCLIP,
    CHINESE_CLIP,
    CLIPSEG,
    SIGLIP,
    SIGLIP2,
    OPEN_CLIP,
    LLAVA,
    DINOV2,
    DINOV3_VIT,
    MLCD,
    AIMV2,
    OWLVIT,
    OWLV2,
)

_OTHERS = "Supported: "
# How to add a family is in the design notes.
_ADD = "docs/design.md, 'A new family', says how to add one"


def supported(family: TowerFamily | None = None) -> str:
    """Return the classes of a family by model type in words; of every family the first when None."""
    if family is not None:
        return "; ".join(f"{kind} ({', '.join(names)})" for kind, names in family.model_types.items())
    firsts = [next(iter(each.model_types.items())) for each in FAMILIES]
    return "; ".join(f"{kind} ({names[0]})" for kind, names in firsts)


def family_named(name: str) -> TowerFamily:
    """Return a family by its name. Raises InputError if there is none."""
    for family in FAMILIES:
        if family.name == name:
            return family
    raise InputError(f"there is no family {name!r}; families: {', '.join(family.name for family in FAMILIES)}")


def family_of_config(raw: Mapping[str, Any]) -> tuple[TowerFamily, str]:
    """Return the family and the architecture to load for the JSON of a ``config.json``. No model is imported.

    Raises:
        UnsupportedModel: the family is not supported; the message lists those that are.
        InputError: the architectures are no list of names.
    """
    model_type, given = raw.get("model_type"), raw.get("architectures")
    family = next((each for each in FAMILIES if isinstance(model_type, str) and model_type in each.model_types), None)
    if family is None:
        raise UnsupportedModel(_unknown(raw))
    names = family.model_types[str(model_type)]
    wanted = [given] if isinstance(given, str) else given or names[:1]
    if not isinstance(wanted, (list, tuple)) or not all(isinstance(name, str) for name in wanted):
        raise InputError("architectures in config.json is no list of names: correct it")
    for name in wanted:
        if name in names:
            return family, name
    if why := refusal(raw):
        raise UnsupportedModel(f"architecture {_shown(wanted)} is not supported: {why}. {_OTHERS}{supported()}")
    known = supported(family)
    raise UnsupportedModel(f"architecture {_shown(wanted)} has no tower to edit; supported: {known}. {_ADD}")


def _unknown(raw: Mapping[str, Any]) -> str:
    """Return why the model of a ``config.json`` of no supported family is refused."""
    model_type, why = raw.get("model_type"), refusal(raw)
    if model_type is None and isinstance(raw.get("architecture"), str):
        what = f"{_shown([raw['architecture']])}, a model of timm,"
    elif model_type is None:
        what = "a checkpoint without model_type in its config.json"
    else:
        what = f"model_type {sanitize(repr(model_type), 60)}"
    if why:
        return f"{what} is not supported: {why}. {_OTHERS}{supported()}"
    return f"{what} is not supported; supported: {supported()}. {_ADD}"


def _shown(names: Sequence[str]) -> str:
    return sanitize(", ".join(names), 100)


def family_of(model: Any) -> TowerFamily:
    """Return the family of a model in memory.

    Raises:
        UnsupportedModel: another kind of model.
    """
    check_class(model)
    return family_of_config({"model_type": model.config.model_type, "architectures": [type(model).__name__]})[0]


def config_settings(raw: Mapping[str, Any], tower: str | None = None) -> dict[str, Any]:
    """Return the settings of a tower that the JSON of a ``config.json`` describes.

    The classes of models are not imported for it: that would take two seconds.

    Args:
        raw: the JSON.
        tower: ``"vision"`` or ``"text"``; the model's first tower when None.

    Raises:
        UnsupportedModel: as for :func:`family_of_config`.
        InputError: the model has no such tower.
        OSError, ValueError, ...: for values that transformers cannot use (``sith_hf.towers.UNUSABLE``).
    """
    family, architecture = family_of_config(raw)
    return family.settings(_config(raw), tower_kind(family, architecture, tower))


def check_place(family: str, kind: str, layers: Iterable[int], config: Any, where: str = "this model") -> None:
    """Check that an edit of layers of a tower belongs to a model and has an effect on it.

    Args:
        family: the name of the family that the edit is of.
        kind: its tower.
        layers: the layers that it changes.
        config: the configuration of the model, or its JSON.
        where: the model in messages.

    Raises:
        BaseMismatch: the model is of another family, or does not have that tower.
        UnsupportedModel: no supported model, or one that does not read what one of the layers writes.
    """
    raw = config if isinstance(config, Mapping) else {"model_type": config.model_type, "architectures": None}
    found, architecture = family_of_config(raw)
    towers = found.towers(architecture)
    if (found.name, kind in towers) != (family, True):
        raise BaseMismatch(
            f"the edit is of the {kind} tower of the family {family}, and {where} is a {architecture} of the family "
            f"{found.name} with these towers to edit: {', '.join(towers)}. Use the base that it was made for, or "
            "decompose this model and make the edit again"
        )
    check_writable(found.inert(architecture, _config(raw) if config is raw else config, kind), layers)


def too_deep(config: Any, tensors: int) -> bool:
    """Return whether a configuration has more layers than a checkpoint has tensors: such a model takes forever."""
    parts = (config, *(getattr(config, f"{kind}_config", None) for kind in TOWERS))
    return any(getattr(part, "num_hidden_layers", 0) > tensors for part in parts)


def check_outputs(
    kind: str, outputs: Mapping[int, tuple[str, str | None]], raw: Mapping[str, Any], tensors: int
) -> None:
    """Check that the tensors that an edit names are the output projections of its layers.

    Args:
        kind: the tower.
        outputs: layer to the canonical names of the weight and bias that the edit changes.
        raw: the JSON of the model's ``config.json``.
        tensors: how many the checkpoint has.

    Raises:
        InputError: more layers than tensors.
        BaseMismatch: a layer that the tower does not have, or another tensor.
        UnsupportedModel, OSError, ValueError, ...: as for :func:`config_settings`.
    """
    family, architecture = family_of_config(raw)
    config = _config(raw)
    if too_deep(config, tensors):
        raise InputError("config.json has more layers than the checkpoint has tensors: fetch it again")
    with torch.device("meta"):
        model = model_class(architecture)(config)
    tower, path = family.locate(model, kind)
    name = Tensors.of_model(family, model, path).name
    paths = family.outputs(tower)
    for layer, found in outputs.items():
        if layer >= len(paths):
            raise BaseMismatch(
                f"the edit is of layer {layer}, but the {kind} tower of this {architecture} ends with layer "
                f"{len(paths) - 1}: use the base that it was made for"
            )
        has_bias = getattr(tower.get_submodule(paths[layer]), "bias", None) is not None
        wanted = name(f"{paths[layer]}.weight"), name(f"{paths[layer]}.bias") if has_bias else None
        if found != wanted:
            named, own = (sanitize(" and ".join(map(str, names)), 300) for names in (found, wanted))
            raise BaseMismatch(
                f"the edit of layer {layer} names the tensors {named}, but the output projection of this "
                f"{architecture} is in {own}: make the edit again"
            )


def _config(raw: Mapping[str, Any]) -> Any:
    """Return the configuration of some JSON, to read and not to change: a save asks for the same one several times."""
    return _parsed(json.dumps(dict(raw)))


@lru_cache(maxsize=16)
def _parsed(content: str) -> Any:
    raw = json.loads(content)
    return config_class(raw["model_type"]).from_dict(raw)


def tower_kind(family: TowerFamily, architecture: str, tower: str | None) -> str:
    """Return the name of a tower; the model's first one for None. Raises InputError if the model does not have it."""
    known = family.towers(architecture)
    if tower is None or tower in known:
        return tower or next(iter(known))
    if tower not in TOWERS:
        raise InputError(f"tower must be {' or '.join(TOWERS)}; got {tower!r}")
    raise InputError(
        f"a {architecture} has no {tower} tower that can be edited; it has: {', '.join(known)} "
        f"(tower={next(iter(known))!r} in Python, --tower {next(iter(known))} on the command line)"
    )


def family_with(architecture: str) -> TowerFamily:
    """Return the family that has a class of models. Raises UnsupportedModel if none has."""
    for family in FAMILIES:
        if any(architecture in names for names in family.model_types.values()):
            return family
    raise UnsupportedModel(f"{architecture!r} is not supported; supported: {supported()}. {_ADD}")


def has_tower(model: Any, family: TowerFamily, tower: str) -> bool:
    """Return whether a model may have a tower of a family: not so if its class is of another one, or lacks the tower.

    A class that is not supported, such as ``CLIPForImageClassification``, may contain the tower.
    """
    name = type(model).__name__
    try:
        return family_with(name).name == family.name and tower in family.towers(name)
    except UnsupportedModel:
        return True


def partial_layers(raw: Mapping[str, Any], kind: str) -> Mapping[int, str]:
    """Return the layers of a tower that do not reach all that a model returns, by the JSON of its ``config.json``.

    Raises:
        UnsupportedModel, OSError, ValueError, ...: as for :func:`config_settings`.
    """
    family, architecture = family_of_config(raw)
    return family.partial(architecture, _config(raw), kind)


def check_function(model: Any, *, hooks: bool = True) -> None:
    """Raise UnsupportedModel unless the towers and projections of ``model`` compute what their parameters say.

    Args:
        model: a model of a supported family (:func:`sith_hf.towers.function.check_parts`).
        hooks: whether to check forward hooks.
    """
    family = family_of(model)
    towers, text = family.towers(type(model).__name__), family.text(model)
    parts = {path: model.get_submodule(path) for path in sorted(towers.values())}
    projections = {path: family.projection(model, kind) for kind, path in towers.items()}
    if text is not None and not any(part is text.tower for part in parts.values()):
        path = next(name for name, module in model.named_modules() if module is text.tower)
        parts[path], projections[path] = text.tower, text.projection
    check_parts(model, parts, projections, hooks=hooks)


def read_tower(model: Any, companion: Any | None = None, tower: str | None = None) -> Tower:
    """Read a tower of a model object.

    Args:
        model: the model; its tensors are referenced, not copied, and never changed.
        companion: a model that provides what the way to the joint space lacks, such as the projection.
        tower: ``"vision"`` or ``"text"``; when None, vision if the model has it.

    Raises:
        UnsupportedModel: another kind of model, or one with adapters, parametrizations, quantized or replaced layers
            (:func:`sith_hf.towers.function.check_parts`), or with tied output projections.
        InputError: no such tower, a companion of another width, or a weight that is not finite.
    """
    model = unwrapped(model)
    family = family_of(model)
    kind = tower_kind(family, type(model).__name__, tower)
    check_function(model)
    if companion is not None:
        companion = unwrapped(companion)
        check_function(companion)
    found = family.read(model, kind, companion)
    _check_shared(model, family, found)
    return found


def _check_shared(model: Any, family: TowerFamily, tower: Tower) -> None:
    """Raise UnsupportedModel if another parameter of a tower is the same tensor as one that an edit changes."""
    architecture = type(model).__name__
    names = names_on_disk(family, architecture, model.config).canonical
    holders: dict[int, set[str]] = {}
    for path in family.towers(architecture).values():
        for name, parameter in model.get_submodule(path).named_parameters(path, remove_duplicate=False):
            holders.setdefault(parameter.data_ptr(), set()).add(names.get(name, name))
    for layer in tower.layers:
        for name, tensor in zip(layer.outputs, (layer.out_weight, layer.out_bias), strict=True):
            found = set() if tensor is None else holders.get(tensor.data_ptr(), set())
            if len(found) > 1:
                raise UnsupportedModel(
                    f"{name} and {min(found - {name})} are one tensor (tied layers): an edit of one would change both"
                )
