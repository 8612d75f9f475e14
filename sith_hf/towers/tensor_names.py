"""The names of tensors on disk, the same in every CLIP checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

# The parts of an attention layer and their names on disk, below the layer's prefix.
LAYER_PARTS: Mapping[str, str] = {
    "norm_weight": "layer_norm1.weight",
    "norm_bias": "layer_norm1.bias",
    "value_weight": "self_attn.v_proj.weight",
    "value_bias": "self_attn.v_proj.bias",
    "out_weight": "self_attn.out_proj.weight",
    "out_bias": "self_attn.out_proj.bias",
}

PROJECTION = "visual_projection.weight"

# The parts of a CLIPVisionModel of transformers 5; other names stay.
_BARE = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")


def tensor_key(layer: int, part: str) -> str:
    """Return the name on disk of one part of one layer, the same in every CLIP checkpoint."""
    return f"vision_model.encoder.layers.{layer}.{LAYER_PARTS[part]}"


def canonical(key: str) -> str:
    """Return a tensor's name as in every CLIP release on the Hub.

    A ``CLIPVisionModel`` made by transformers 5 saves its keys without the prefix ``vision_model.``; transformers 4.57
    would fill every such tensor with random numbers, without an error.
    """
    return f"vision_model.{key}" if key.startswith(_BARE) else key
