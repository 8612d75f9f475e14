"""Tiny random LLaVA, DINOv2, DINOv3 and MLCD models."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MLCDVisionConfig,
    MLCDVisionModel,
    SiglipVisionConfig,
)

from tests.support.tiny import VISION, randomise

SIZES = {key: value for key, value in VISION.items() if key != "projection_dim"}
# The numbers of a prompt with one picture of four patches, and the number that stands for a patch.
PATCH = 99
PROMPT = (1, PATCH, PATCH, PATCH, PATCH, 5, 6, 7)


def llava_model(seed: int = 0, tower: str = "clip", *, text: dict[str, Any] | None = None, **config: Any) -> Any:
    """A random LlavaForConditionalGeneration with the vision tower of ``clip_model`` or of a SigLIP."""
    sizes = {**SIZES, "num_hidden_layers": 4}
    kinds = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}
    language = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = LlavaConfig(
        vision_config=kinds[tower](**sizes, **({"projection_dim": 24} if tower == "clip" else {})),
        text_config=LlamaConfig(**{**language, "num_key_value_heads": 1, "vocab_size": 100, **(text or {})}),
        image_token_index=PATCH,
        image_seq_length=4,
        # SigLIP has no class token to leave out.
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        **config,
    )
    return randomise(LlavaForConditionalGeneration(made), seed)


def pictures(count: int = 2, seed: int = 0) -> torch.Tensor:
    """Random pictures."""
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def generated(model: Any, tokens: int = 12) -> list[int]:
    """What a LLaVA writes about a picture."""
    inputs = {"input_ids": torch.tensor([PROMPT]), "pixel_values": pictures(1).to(model.dtype)}
    with torch.no_grad():
        return list(model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, len(PROMPT) :].tolist())


def dinov2(seed: int = 0, **config: Any) -> Any:
    """A random Dinov2Model."""
    return randomise(Dinov2Model(Dinov2Config(**_dino(config))), seed)


def dinov2_classifier(seed: int = 0, **config: Any) -> Any:
    """A random Dinov2ForImageClassification."""
    return randomise(Dinov2ForImageClassification(Dinov2Config(**_dino(config), num_labels=5)), seed)


def dinov2_registers(seed: int = 0, **config: Any) -> Any:
    """A random Dinov2WithRegistersModel."""
    return randomise(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**_dino(config))), seed)


def dinov2_registers_classifier(seed: int = 0, **config: Any) -> Any:
    """A random Dinov2WithRegistersForImageClassification."""
    made = Dinov2WithRegistersConfig(**_dino(config), num_labels=5)
    return randomise(Dinov2WithRegistersForImageClassification(made), seed)


def dinov3(seed: int = 0, **config: Any) -> Any:
    """A random DINOv3ViTModel."""
    return randomise(DINOv3ViTModel(DINOv3ViTConfig(**{**SIZES, **config})), seed)


def mlcd(seed: int = 0, **config: Any) -> Any:
    """A random MLCDVisionModel."""
    return randomise(MLCDVisionModel(MLCDVisionConfig(**{**SIZES, **config})), seed)


def _dino(config: dict[str, Any]) -> dict[str, Any]:
    sizes = {key: value for key, value in SIZES.items() if key != "intermediate_size"}
    return {**sizes, "mlp_ratio": 2, **config}
