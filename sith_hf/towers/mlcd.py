"""The family MLCD: CLIP's parts with rotary positions, trained on clusters of images, no text."""

from __future__ import annotations

from dataclasses import dataclass

from sith_hf.towers.tensors import CLIP_PATHS
from sith_hf.towers.vision_only import VisionOnlyFamily


@dataclass(frozen=True)
class MlcdFamily(VisionOnlyFamily):
    """MLCD, whose attention swaps images and tokens before the output projection, and swaps them back behind it."""

    tokens_first: bool = True


MLCD = MlcdFamily(
    name="mlcd",
    model_types={"mlcd_vision_model": ("MLCDVisionModel",)},
    paths={"MLCDVisionModel": ""},
    layers="encoder.layers",
    parts=CLIP_PATHS,
)
