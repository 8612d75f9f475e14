"""The family DINOv3 (vision transformers): rotary positions, layer scale, biases as the configuration says, no text."""

from __future__ import annotations

from sith_hf.towers.tensors import Paths
from sith_hf.towers.vision_only import VisionOnlyFamily

DINOV3_VIT = VisionOnlyFamily(
    name="dinov3_vit",
    model_types={"dinov3_vit": ("DINOv3ViTModel",)},
    paths={"DINOv3ViTModel": ""},
    layers="model.layer",
    parts=Paths("norm1", "attention.v_proj", "attention.o_proj", "layer_scale1.lambda1"),
    bias=False,
)
