"""The settings of a model that are no tensors and decide what it computes, as JSON values by name."""

from __future__ import annotations

from typing import Any

from sith_hf.core.fingerprint import tokenizer_sha256

_VISION = ("num_attention_heads", "num_hidden_layers", "hidden_act", "layer_norm_eps", "image_size", "patch_size")
_TEXT = (*_VISION[:4], "max_position_embeddings", "eos_token_id")


def vision_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a vision tower, from the configuration of a CLIP model or of a vision model."""
    config = getattr(config, "vision_config", config)
    return {name: _plain(getattr(config, name)) for name in _VISION if hasattr(config, name)}


def text_settings(model: Any, tokenizer: Any | None) -> dict[str, Any]:
    """Return the settings of the text tower of a ``CLIPModel``, with the sha256 of its tokenizer if there is one."""
    found = {name: _plain(getattr(model.config.text_config, name)) for name in _TEXT}
    if tokenizer is not None and hasattr(tokenizer, "get_vocab"):
        found |= {"tokenizer": tokenizer_sha256(tokenizer), "truncation_side": tokenizer.truncation_side}
        found["max_tokens"] = max_tokens(tokenizer, found["max_position_embeddings"])
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
