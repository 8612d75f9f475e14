"""Tiny random CLIP models, made and never downloaded, with a tokenizer of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
VISION |= {"image_size": 16, "patch_size": 8, "projection_dim": 24}


def byte_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer whose only tokens are bytes, so that every text has a tokenization."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def image_processor() -> CLIPImageProcessorPil:
    """The image processor of the tiny models."""
    size = VISION["image_size"]
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def randomise(model: Any, seed: int) -> Any:
    """Weights far from the initial ones: layer norms and biases are not ones and zeros either."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.2 * noise)
            elif parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return model.eval()


def clip_model(seed: int = 0, **vision: Any) -> CLIPModel:
    """A random CLIPModel with the text tower of :func:`byte_tokenizer`."""
    text = {
        "vocab_size": 514,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 77,
        "bos_token_id": 512,
        "eos_token_id": 513,
        "pad_token_id": 513,
    }
    settings = {**VISION, **vision}
    projection = settings["projection_dim"]
    config = CLIPConfig(
        text_config={**text, "projection_dim": projection}, vision_config=settings, projection_dim=projection
    )
    return randomise(CLIPModel(config), seed)


def vision_model(seed: int = 0, **vision: Any) -> CLIPVisionModel:
    """A random CLIPVisionModel."""
    return randomise(CLIPVisionModel(CLIPVisionConfig(**{**VISION, **vision})), seed)


def projected_vision_model(seed: int = 0, **vision: Any) -> CLIPVisionModelWithProjection:
    """A random CLIPVisionModelWithProjection."""
    return randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**{**VISION, **vision})), seed)


def save_clip(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """A random CLIPModel with tokenizer, saved as ``save_pretrained`` saves it."""
    model = clip_model(seed, **options.pop("vision", {})).to(dtype)
    model.save_pretrained(folder, **options)
    byte_tokenizer(folder / "bytes").save_pretrained(folder)
    for path in (folder / "bytes").iterdir():
        path.unlink()
    (folder / "bytes").rmdir()
    return folder
