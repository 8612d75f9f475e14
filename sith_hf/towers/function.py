"""Check that the parameters of a CLIP model decide what it computes, since they are what is decomposed and edited.

Adapters, parametrizations, quantization, hooks and layers of another kind change the function and leave the parameter.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from sith_hf.core.escaping import sanitize
from sith_hf.errors import UnsupportedModel
from sith_hf.towers.evaluating import evaluating
from sith_hf.towers.model_class import TRUSTED

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Attributes of modules that do not change what they compute in evaluation mode.
_NOT_COMPUTED = frozenset({"training", "gradient_checkpointing", "name_or_path", "dropout"})

_QUANTIZED = ("quant", "bitsandbytes", "8bit", "4bit", "torchao", "hqq", "awq", "gptq")

_WHOLE = "load the model as from_pretrained returns it"


def unwrapped(model: Any) -> Any:
    """Return the model inside wrappers such as torch.compile and DataParallel."""
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model


def check_class(model: Any) -> None:
    """Raise UnsupportedModel for an object that is no model of transformers, such as a ``PeftModel``."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        _refuse_kind("the model", model, "class")


def check_parts(
    model: Any, parts: Mapping[str, Any], projections: Mapping[str, Any] | None = None, *, hooks: bool = True
) -> None:
    """Raise UnsupportedModel unless some towers of ``model``, and their projections, compute what their parameters say.

    Every layer is compared with a fresh one made from the model's configuration. Hooks of ``accelerate`` and
    ``transformers`` are accepted, and hooks without an effect on the outputs for a random input.

    Args:
        model: the model.
        parts: path to module, of each tower.
        projections: path of a tower to the linear module without bias that follows it; None for no module.
        hooks: whether to check forward hooks.
    """
    names = {id(module): name for name, module in model.named_modules()}
    projections = projections or {}
    for path, part in parts.items():
        part = unwrapped(part)
        if not type(part).__module__.startswith(TRUSTED):
            _refuse_kind(path or "the model", part, "tower")
        _check_attention(part.config)
        _check(path, part, _fresh(part))
    for layer in projections.values():
        if layer is not None:
            rows, columns = getattr(getattr(layer, "weight", None), "shape", None) or (0, 0)
            _check(names[id(layer)], unwrapped(layer), nn.Linear(columns, rows, bias=False, device="meta"))
    if hooks:
        for path, part in parts.items():
            _check_hooks(path, part, projections.get(path))


def _fresh(part: Any) -> nn.Module:
    """Return a module of the class and configuration of another, without values."""
    kind: Any = type(part)
    config = json.dumps(part.config.to_dict(), sort_keys=True, default=str)
    return _fresh_of(kind, config, "add_pooling_layer", getattr(part, "pooler", None) is not None)


@lru_cache(maxsize=16)
def _fresh_of(kind: Any, config: str, option: str, value: bool) -> nn.Module:
    """Make it; classes like BERT have an option of a layer that no text embedding needs."""
    options = {option: value} if option in inspect.signature(kind.__init__).parameters else {}
    with torch.device("meta"):
        made: nn.Module = kind(kind.config_class.from_dict(json.loads(config)), **options)
    return made


def _check(path: str, found: Any, fresh: nn.Module) -> None:
    """Compare a module and those in it with a fresh one of the same configuration."""
    found = unwrapped(found)
    if type(found) is not type(fresh):
        _refuse_kind(path or "the model", found, type(fresh).__name__)
    _check_settings(path, found, fresh)
    for name, parameter in fresh._parameters.items():
        if parameter is not None:
            _check_parameter(f"{path}.{name}", found._parameters.get(name), parameter, found)
    if "forward" in vars(found) and not _of_accelerate(found):
        raise UnsupportedModel(
            f"{path or 'the model'} has a forward method of its own, which replaces that of its class: {_WHOLE}"
        )
    for name, child in fresh._modules.items():
        if child is not None:
            _check(f"{path}.{name}" if path else name, found._modules.get(name), child)


def _check_settings(path: str, found: Any, fresh: nn.Module) -> None:
    """Compare what is no parameter: sizes, epsilons, numbers of heads and layers."""
    ours = {name: value for name, value in vars(fresh).items() if isinstance(value, (bool, int, float, str))}
    for name, value in ours.items():
        if name not in _NOT_COMPUTED and not name.startswith("_") and (own := getattr(found, name, None)) != value:
            raise UnsupportedModel(
                f"{path or 'the model'}.{name} is {sanitize(repr(own), 100)}, but the model's config makes it "
                f"{value!r}: correct one"
            )
    if isinstance(fresh, nn.ModuleList) and len(found) != len(fresh):
        raise UnsupportedModel(f"{path} has {len(found)} layers, but the model's config names {len(fresh)}: correct it")
    if not fresh._modules and found.extra_repr() != fresh.extra_repr():
        raise UnsupportedModel(
            f"{path} is {type(found).__name__}({found.extra_repr()}), but the model's config makes it "
            f"{type(fresh).__name__}({fresh.extra_repr()}): correct one"
        )


def _refuse_kind(path: str, found: Any, wanted: str = "") -> None:
    """Raise UnsupportedModel for a module of another class, with what to do about it."""
    kind = type(found)
    origin = " ".join(f"{base.__module__}.{base.__qualname__}".lower() for base in kind.__mro__)
    if origin.startswith("peft.") or " peft." in origin:
        raise UnsupportedModel(
            f"{path} has an adapter ({kind.__module__}.{kind.__name__}), so its weights are not what is computed: "
            "merge it first: PeftModel.from_pretrained(base, ADAPTER).merge_and_unload() returns the merged model"
        )
    if origin.startswith("open_clip."):
        raise UnsupportedModel(
            f"{path} is an object of open_clip ({kind.__qualname__}): save it as a folder with "
            "open_clip.push_to_hf_hub.save_for_hf, and name that folder"
        )
    if nn.utils.parametrize.is_parametrized(found) if isinstance(found, nn.Module) else False:
        raise UnsupportedModel(
            f"{path} is parametrized: its {', '.join(found.parametrizations)} is computed and not a plain float "
            "parameter. Make it one first, with torch.nn.utils.parametrize.remove_parametrizations"
        )
    if any(word in origin for word in _QUANTIZED):
        raise UnsupportedModel(f"{path} is quantized ({kind.__module__}.{kind.__name__}): load it without quantization")
    raise UnsupportedModel(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, not the {wanted} that its model's class has: {_WHOLE}"
    )


def _check_parameter(path: str, found: Any, fresh: Tensor, module: Any) -> None:
    if not isinstance(found, nn.Parameter):
        raise UnsupportedModel(
            f"{path} is computed from {', '.join(module._parameters) or 'others'} and not a plain float parameter "
            "(weight_norm, spectral_norm, pruning): make it one first, with remove_weight_norm or its like"
        )
    # Quantized and sharded parameters are subclasses whose values are not entries of the matrix.
    if type(found.data) is not Tensor or found.dtype not in FLOATS:
        kind = f"{type(found).__name__} of {found.dtype}"
        raise UnsupportedModel(f"{path} is a {kind}, not a plain float parameter: load the model whole, not quantized")
    if found.shape != fresh.shape:
        raise UnsupportedModel(
            f"{path} has shape {list(found.shape)}, but the model's config makes it {list(fresh.shape)} (a sharded "
            f"model, or another config): {_WHOLE}"
        )


def _check_attention(config: Any) -> None:
    """Raise UnsupportedModel for an attention function that is none of transformers' own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = str(getattr(config, "_attn_implementation", None))
    function = ALL_ATTENTION_FUNCTIONS.get(name)
    if function is not None and "/" not in name and not _module(function).startswith("transformers."):
        raise UnsupportedModel(
            f'attn_implementation {sanitize(name)!r} is a function of your own: load with attn_implementation="sdpa"'
        )


def _of_accelerate(module: Any) -> bool:
    """Return whether accelerate's hook calls the forward of the class, in place of which it stands."""
    own = getattr(getattr(module, "_old_forward", None), "__func__", None)
    return hasattr(module, "_hf_hook") and own is type(module).forward


def _check_hooks(path: str, tower: nn.Module, projection: nn.Module | None) -> None:
    """Raise UnsupportedModel if forward hooks change what a tower and its projection compute for a random input.

    A hook may change an output in place, by another function, or change a weight: only running it shows that.
    """
    modules = [(path, tower), *([] if projection is None else [("its projection", projection)])]
    kept: list[tuple[Any, dict[int, Any]]] = []
    names: list[str] = []
    for start, top in modules:
        for below, module in top.named_modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                if foreign := {key: hook for key, hook in hooks.items() if not _of_library(hook)}:
                    kept.append((hooks, dict(hooks)))
                    where = ".".join(filter(None, (start, below))) or "the model"
                    names += [f"{where} has a forward hook ({sanitize(_name(hook), 100)})" for hook in foreign.values()]
    if not kept or any(parameter.is_meta for parameter in tower.parameters()):
        return
    try:
        for hooks, before in kept:
            for key in [key for key, hook in before.items() if not _of_library(hook)]:
                hooks.pop(key)
        alone = _outputs(tower, projection)
    finally:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)
    watched = _outputs(tower, projection)  # after the other: a hook may change a weight for good
    limit = 10 * torch.finfo(alone.dtype).eps * float(alone.nan_to_num().abs().max())
    if not torch.allclose(watched, alone, rtol=0, atol=limit, equal_nan=True):
        more = f", and {len(names) - 1} more are there," if len(names) > 1 else ""
        raise UnsupportedModel(
            f"{names[0]}{more} that changes what it computes: remove it (handle.remove()), or let it only watch"
        )


def _outputs(tower: Any, projection: Any | None) -> Tensor:
    """Return what a tower and its projection compute for a random input, in evaluation mode, as one vector."""
    config, weight = unwrapped(tower).config, next(tower.parameters())
    random = torch.Generator().manual_seed(0)
    if hasattr(config, "image_size"):
        size = config.image_size
        sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
        pixels = torch.randn(1, config.num_channels, *sides, generator=random)
        inputs = {"pixel_values": pixels.to(weight)}
    elif hasattr(config, "num_patches"):
        patches = torch.randn(1, 4, config.num_channels * config.patch_size**2, generator=random)
        shape, mask = torch.full((1, 2), 2), torch.ones(1, 4, dtype=torch.long)
        inputs = {"pixel_values": patches.to(weight), "spatial_shapes": shape, "pixel_attention_mask": mask}
    else:
        tokens = torch.randint(config.vocab_size, (1, min(8, config.max_position_embeddings)), generator=random)
        inputs = {"input_ids": tokens.to(weight.device)}
    with evaluating(tower), torch.no_grad():
        found = tower(**inputs, return_dict=True)
        pooled = found.last_hidden_state[:, 0] if found.pooler_output is None else found.pooler_output
        pooled = pooled if projection is None else projection(pooled)
        return torch.cat([found.last_hidden_state.flatten(), pooled.flatten()])


def _of_library(hook: Any) -> bool:
    """Return whether a hook is of a library that keeps the function."""
    while isinstance(hook, partial):
        hook = hook.func
    return _module(inspect.unwrap(hook)).startswith(("transformers.", "accelerate."))


def _module(hook: Any) -> str:
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def _name(hook: Any) -> str:
    return str(getattr(hook, "__qualname__", None) or type(hook).__qualname__)
