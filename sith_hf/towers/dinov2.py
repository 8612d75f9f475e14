"""The family DINOv2, with and without registers: layer scale, no text."""

from __future__ import annotations

from sith_hf.towers.tensors import Paths
from sith_hf.towers.vision_only import VisionOnlyFamily

DINOV2 = VisionOnlyFamily(
    name="dinov2",
    model_types={
        "dinov2": ("Dinov2Model", "Dinov2ForImageClassification"),
        "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification"),
    },
    paths={
        "Dinov2Model": "",
        "Dinov2ForImageClassification": "dinov2",
        "Dinov2WithRegistersModel": "",
        "Dinov2WithRegistersForImageClassification": "dinov2_with_registers",
    },
    layers="encoder.layer",
    parts=Paths("norm1", "attention.v_proj", "attention.o_proj", "layer_scale1.lambda1"),
    bias=False,
)
