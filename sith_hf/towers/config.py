"""Check ``config.json`` against the headers of the weights, before a model of its sizes takes memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sith_hf.core.escaping import one_line, sanitize
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers.config_file import ADVICE, CONFIG
from sith_hf.towers.family import names_on_disk
from sith_hf.towers.folder_format import folder_format
from sith_hf.towers.model_class import model_class
from sith_hf.towers.model_settings import UNUSABLE
from sith_hf.towers.registry import family_of_config
from sith_hf.towers.weights import Checkpoint

_DTYPES = ("float32", "float16", "bfloat16", "float64")
_TOO_LARGE = 2**31
# A model of so many layers is quickly built without memory, to list the tensors that the weights lack.
_MANY_LAYERS = 1000
_LAYER = re.compile(r"\.(?:layers?|resblocks)\.(\d+)\.")
_TEXT = re.compile(r"^transformer\.|\b(text|text_model|language_model)\.")
_READ = ("F32", "F16", "BF16", "F64")
_SIZES = {
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
    "patch_size", "vocab_size", "max_position_embeddings",
}  # fmt: skip


def check_config(raw: Mapping[str, Any], architecture: str, checkpoint: Checkpoint) -> Any:
    """Return the configuration as ``transformers`` reads it, which fits the weights; nothing is allocated.

    Args:
        raw: the JSON.
        architecture: the class of the model.
        checkpoint: the weights.

    Raises:
        UnsupportedModel: quantised weights.
        InputError: an unusable value, other sizes than the weights', or missing tensors.
    """
    parts = list(_parts(raw))
    for where, part in parts:
        if part.get("quantization_config") is not None:
            raise UnsupportedModel(
                f"{where}has a quantization_config: sith-hf reads weights of 16, 32 or 64 bits; name the checkpoint "
                "that was quantised"
            )
        for key in ("dtype", "torch_dtype"):
            if part.get(key) is not None and part[key] not in _DTYPES:
                raise InputError(f"{where}has {key} {_shown(part[key])}: expected one of {', '.join(_DTYPES)}")
    kind = model_class(architecture)
    try:
        config = kind.config_class.from_dict(dict(raw))
        _check_values(config)
        # The name of a kernel; it says how attention is computed, not what, and would be downloaded and run.
        config._attn_implementation = attention(config)
        _check_depth(config, checkpoint)
        family = family_of_config(raw)[0]
        for tower in family.towers(architecture):
            family.settings(config, tower)
        expected = names_on_disk(family, architecture, config)
    except InputError:
        raise
    except UNUSABLE as error:
        name = folder_format(checkpoint.folder).config
        raise InputError(f"{name} cannot be used ({one_line(error)}): {ADVICE}") from None
    _check_tensors(expected.shapes, expected.tied, architecture, checkpoint)
    return config


def attention(config: Any) -> str | None:
    """Return the implementation of attention to load a model with: ``eager`` if it asks for it, else None, the default.

    All implementations compute the same function; the name of any other may be a kernel on the Hub, which is code.
    """
    return "eager" if any(part._attn_implementation == "eager" for _, part in _sub_configs(config)) else None


def _parts(raw: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield f"{CONFIG} ", raw
    for key in ("text_config", "vision_config", "text_config_dict", "vision_config_dict"):
        value = raw.get(key)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{CONFIG}: {key} holds no JSON object ({type(value).__name__}): {ADVICE}")
        if value:
            yield f"{key} of {CONFIG} ", value


def _sub_configs(config: Any) -> Iterator[tuple[str, Any]]:
    yield "", config
    for key in config.sub_configs:
        if getattr(config, key, None) is not None:
            yield f"{key}.", getattr(config, key)


def _check_values(config: Any) -> None:
    for where, part in _sub_configs(config):
        # A configuration may hold other keys, which its class does not use; of three projection_dim, one is used.
        for key in (_SIZES | (set() if where else {"projection_dim"})) & type(part).__dataclass_fields__.keys():
            value = getattr(part, key)
            # Some families have a size for each side.
            sides = value if isinstance(value, (list, tuple)) and key in ("image_size", "patch_size") else [value]
            if not sides or any(type(side) is not int or not 1 <= side < _TOO_LARGE for side in sides):
                raise InputError(
                    f"{CONFIG} has {where}{key} {_shown(value)}: expected a whole number from 1 to {_TOO_LARGE - 1:,}"
                )
        eps = getattr(part, "layer_norm_eps", 0.0)
        if type(eps) not in (int, float) or not 0 <= eps < math.inf:
            raise InputError(f"{CONFIG} has {where}layer_norm_eps {_shown(eps)}: expected a number from 0 on")


def _check_depth(config: Any, checkpoint: Checkpoint) -> None:
    """Compare the number of layers: building a billion layers would never end, even without memory."""
    found: dict[bool, set[str]] = {True: set(), False: set()}
    name = folder_format(checkpoint.folder).config
    for key in checkpoint.where:
        if match := _LAYER.search(key):
            found[_TEXT.search(key) is not None].add(match[1])
    for where, part in _sub_configs(config):
        wanted = getattr(part, "num_hidden_layers", 0)
        numbers = found[where.startswith("text")] if where else found[True] | found[False]
        if wanted > len(numbers) and (numbers or wanted > _MANY_LAYERS):
            raise InputError(
                f"{name} has {where}num_hidden_layers {wanted}, but the weights have {len(numbers)} layers; "
                "tensors of the others are missing: download the checkpoint again"
            )


def _check_tensors(
    expected: Mapping[str, Sequence[int] | None], tied: frozenset[str], architecture: str, checkpoint: Checkpoint
) -> None:
    missing = sorted(set(expected) - set(checkpoint.where) - tied)
    if missing:
        _check_wrapped(missing, architecture, checkpoint)
        raise InputError(
            f"{len(missing)} tensors of a {architecture} are missing, such as {missing[0]}; "
            "transformers would fill them with random numbers. Download the checkpoint again"
        )
    name = folder_format(checkpoint.folder).config
    for key, shape in expected.items():
        if key not in checkpoint.where:
            continue
        entry = checkpoint.where[key].entries[key]
        if shape is not None and entry.shape != tuple(shape):
            raise InputError(
                f"{key} has shape {list(entry.shape)}, but by {name} it has {list(shape)}: one of the two "
                "belongs to another model; download the checkpoint again"
            )
        if entry.dtype not in _READ:
            raise UnsupportedModel(
                f"{key} is {entry.dtype}: sith-hf reads weights of 16, 32 or 64 bits ({', '.join(_READ)}); name the "
                "checkpoint that was quantised, or convert this one"
            )


def _check_wrapped(missing: Sequence[str], architecture: str, checkpoint: Checkpoint) -> None:
    """Say so if the missing tensors are there by another name, as in a model with adapters or in a wrapping model.

    Raises:
        UnsupportedModel: adapters that are not merged.
        InputError: all of them have the same prefix.
    """
    layer, _, name = missing[0].rpartition(".")
    if f"{layer}.base_layer.{name}" in checkpoint.where:
        raise UnsupportedModel(
            f"its weights hold an adapter that is not merged ({layer}.base_layer.{name} in place of {missing[0]}): "
            "load the model with its adapter, and save what merge_and_unload() returns with save_pretrained"
        )
    for key in (key for key in checkpoint.where if key.endswith(f".{missing[0]}")):
        prefix = key.removesuffix(missing[0])
        if all(prefix + other in checkpoint.where for other in missing):
            raise InputError(
                f"the names of its tensors begin with {sanitize(prefix, 60)!r}, as in a model that wraps the "
                f"{architecture}: save the {architecture} inside it with save_pretrained"
            )


def _shown(value: object) -> str:
    return sanitize(repr(value), 60)
