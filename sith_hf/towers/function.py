"""Check that the parameters of a CLIP model decide what it computes, since they are what is decomposed and edited.

Adapters, parametrizations, quantization, hooks and layers of another kind change the function and leave the parameter.
"""

from __future__ import annotations

import dis
import inspect
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import json_fields
from sith_hf.errors import UnsupportedModel

ADAPTER = "adapter_config.json"

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


def check_function(model: Any, *, hooks: bool = True) -> None:
    """Raise UnsupportedModel unless the towers and projections of ``model`` compute what their parameters say.

    Every layer is compared with a fresh one made from the model's configuration. Hooks of ``accelerate`` and
    ``transformers`` are accepted, and hooks that only watch: whose code returns nothing and changes nothing in place.

    Args:
        model: a ``CLIPModel`` or a CLIP vision model.
        hooks: whether to check forward hooks.
    """
    parts = {name: getattr(model, name, None) for name in ("vision_model", "text_model")}
    if parts["vision_model"] is None:
        parts = {"": model}
    for path, part in parts.items():
        if part is not None:
            part = unwrapped(part)
            if not type(part).__module__.startswith("transformers.models.clip."):
                _refuse_kind(path or "the model", part, "tower")
            _check_attention(part.config)
            _check(path, part, _fresh(type(part), part.config), hooks)
    for path in ("visual_projection", "text_projection"):
        layer = getattr(model, path, None)
        if layer is not None:
            rows, columns = getattr(getattr(layer, "weight", None), "shape", None) or (0, 0)
            _check(path, unwrapped(layer), nn.Linear(columns, rows, bias=False, device="meta"), hooks)


def check_folder(folder: Path, name: str | None = None) -> None:
    """Raise UnsupportedModel if ``from_pretrained`` loads other weights from a checkpoint than its base weights.

    Args:
        folder: the folder of the checkpoint.
        name: its name in messages, such as a Hub id; the folder when None.
    """
    name = name or str(folder)
    alone = not (folder / "config.json").exists()
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
    # Whoever needs the configuration says what is wrong with it.
    other = json_fields(folder / "config.json").get("transformers_weights")
    if other not in (None, "model.safetensors", "model.safetensors.index.json"):
        raise UnsupportedModel(
            f"config.json of {name} names other weights (transformers_weights: {sanitize(repr(other), 100)}): rename "
            "that file to model.safetensors and remove the key"
        )


def _fresh(kind: type, config: Any) -> nn.Module:
    return _fresh_of(kind, json.dumps(config.to_dict(), sort_keys=True, default=str))


@lru_cache(maxsize=16)
def _fresh_of(kind: Any, config: str) -> nn.Module:
    """Return a module of this class and configuration, without values."""
    with torch.device("meta"):
        made: nn.Module = kind(kind.config_class.from_dict(json.loads(config)))
    return made


def _check(path: str, found: Any, fresh: nn.Module, hooks: bool) -> None:
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
    if hooks:
        for hook in (*found._forward_pre_hooks.values(), *found._forward_hooks.values()):
            if not _only_watches(hook):
                raise UnsupportedModel(
                    f"{path or 'the model'} has a forward hook ({sanitize(_name(hook), 100)}) that may change what it "
                    "computes: remove it (handle.remove()), or let it return nothing"
                )
    for name, child in fresh._modules.items():
        if child is not None:
            _check(f"{path}.{name}" if path else name, found._modules.get(name), child, hooks)


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


def _refuse_kind(path: str, found: Any, wanted: str) -> None:
    """Raise UnsupportedModel for a module of another class, with what to do about it."""
    kind = type(found)
    origin = " ".join(f"{base.__module__}.{base.__qualname__}".lower() for base in kind.__mro__)
    if origin.startswith("peft.") or " peft." in origin:
        raise UnsupportedModel(
            f"{path} has an adapter ({kind.__module__}.{kind.__name__}), so its weights are not what is computed: "
            "merge it first: PeftModel.from_pretrained(base, ADAPTER).merge_and_unload() returns the merged model"
        )
    if nn.utils.parametrize.is_parametrized(found) if isinstance(found, nn.Module) else False:
        raise UnsupportedModel(
            f"{path} is parametrized: its {', '.join(found.parametrizations)} is computed and not a plain float "
            "parameter. Make it one first, with torch.nn.utils.parametrize.remove_parametrizations"
        )
    if any(word in origin for word in _QUANTIZED):
        raise UnsupportedModel(f"{path} is quantized ({kind.__module__}.{kind.__name__}): load it without quantization")
    raise UnsupportedModel(
        f"{path} is a {kind.__module__}.{kind.__qualname__}, not the {wanted} of a CLIP model: {_WHOLE}"
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


def _only_watches(hook: Any) -> bool:
    """Return whether a hook is of a library that keeps the function, or has no code that could change an output."""
    while isinstance(hook, partial):
        hook = hook.func
    hook = inspect.unwrap(hook)  # inside torch.no_grad and its like
    if _module(hook).startswith(("transformers.", "accelerate.")):
        return True
    code = getattr(hook, "__code__", None) or getattr(type(hook).__call__, "__code__", None)
    if code is None:
        return False
    if any(name.endswith("_") and not name.startswith("_") for name in code.co_names):
        return False  # a method that works in place
    before = None
    for step in dis.get_instructions(code):
        if step.opname == "RETURN_CONST" and step.argval is not None:
            return False
        nothing = before is not None and before.opname == "LOAD_CONST" and before.argval is None
        if step.opname == "RETURN_VALUE" and (step.is_jump_target or not nothing):
            return False
        before = step
    return True


def _module(hook: Any) -> str:
    return str(getattr(hook, "__module__", None) or type(hook).__module__)


def _name(hook: Any) -> str:
    return str(getattr(hook, "__qualname__", None) or type(hook).__qualname__)
