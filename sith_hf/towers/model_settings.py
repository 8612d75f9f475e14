"""The settings of a model that are no tensors and decide what it computes, as JSON values by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from sith_hf.core.fingerprint import tokenizer_sha256

# What transformers raises for values that it cannot use. AttributeError, TypeError: of a wrong type, or the name of no
# dtype; ArithmeticError: no heads; RuntimeError: impossible sizes.
UNUSABLE = (
    OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, ArithmeticError, RuntimeError, ImportError,
    StrictDataclassError,
)  # fmt: skip

_SHARED = ("num_attention_heads", "num_hidden_layers", "hidden_act", "layer_norm_eps")
_VISION = (*_SHARED, "image_size", "patch_size")
_TEXT = (*_SHARED, "max_position_embeddings", "eos_token_id")

POOL = "attention_pooling"
"""The setting that says that a tower has an attention-pooling head, which is its last layer."""


def number_of_layers(settings: Mapping[str, Any]) -> Any:
    """Return the number of layers of a tower with these settings, with its pooling head; None if not known.

    Nothing is checked: a config.json that somebody wrote may have any value.
    """
    encoder = settings.get("num_hidden_layers")
    return encoder + 1 if settings.get(POOL) and isinstance(encoder, int) else encoder


def layer_title(layer: int, settings: Mapping[str, Any]) -> int | str:
    """Return a layer's number, for a reader with a note if it is the pooling head: ``"12 (pool)"``."""
    return f"{layer} (pool)" if settings.get(POOL) and layer == settings.get("num_hidden_layers") else layer


def tower_settings(config: Any, kind: str) -> dict[str, Any]:
    """Return the settings of a tower, from the configuration of a model or of the tower."""
    config = getattr(config, f"{kind}_config", config)
    names = _VISION if kind == "vision" else _TEXT
    return {name: _plain(getattr(config, name)) for name in names if hasattr(config, name)}


def text_settings(config: Any, tokenizer: Any | None, positions: int) -> dict[str, Any]:
    """Return the settings of a text tower that reads so many tokens, with the sha256 of a tokenizer if there is one."""
    found = tower_settings(config, "text")
    if tokenizer is not None and hasattr(tokenizer, "get_vocab"):
        found |= {"tokenizer": tokenizer_sha256(tokenizer), "truncation_side": tokenizer.truncation_side}
        found["max_tokens"] = max_tokens(tokenizer, positions)
    return found


def max_tokens(tokenizer: Any, positions: int) -> int:
    """Return the number of tokens after which texts are cut, for a text tower with so many positions.

    ``CLIPProcessor`` applies truncation that ``tokenizer_config.json`` asks for.
    """
    saved = getattr(tokenizer, "init_kwargs", {})
    if saved.get("truncation") in (None, False, "do_not_truncate"):
        return positions
    return int(min(positions, saved.get("max_length") or tokenizer.model_max_length))


def _plain(value: Any) -> Any:
    """Return a JSON value; a list of equal sizes becomes one size."""
    if isinstance(value, (list, tuple)):
        return value[0] if value and all(item == value[0] for item in value) else list(value)
    return value
