"""Tiny random models of OWL-ViT and OWLv2."""

from __future__ import annotations

from typing import Any

import transformers

from tests.support.tiny import VISION, randomise


def owl_model(architecture: str, seed: int = 0) -> Any:
    """A random model of a class such as ``OwlViTModel`` or ``Owlv2ForObjectDetection``."""
    title = architecture.removesuffix("Model").removesuffix("ForObjectDetection")
    text = {"vocab_size": 514, "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2}
    text |= {"num_hidden_layers": 2, "max_position_embeddings": 77}
    config = getattr(transformers, f"{title}Config")(text_config=text, vision_config=VISION, projection_dim=24)
    return randomise(getattr(transformers, architecture)(config), seed)
