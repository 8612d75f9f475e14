"""The family MLCD: CLIP's parts with rotary positions, trained on clusters of images, no text."""

from __future__ import annotations

from sith_hf.towers.tensors import CLIP_PATHS
from sith_hf.towers.vision_only import VisionOnlyFamily

MLCD = VisionOnlyFamily(
    name="mlcd",
    model_types={"mlcd_vision_model": ("MLCDVisionModel",)},
    paths={"MLCDVisionModel": ""},
    layers="encoder.layers",
    parts=CLIP_PATHS,
)
