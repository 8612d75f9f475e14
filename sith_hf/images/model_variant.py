"""One model among those that are evaluated side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.errors import InputError

BASE, EDITED = "base", "edited"


@dataclass(frozen=True, eq=False)
class ModelVariant:
    """One model in an evaluation.

    Attributes:
        name: ``"base"`` for what all others are compared with, ``"edited"`` for the edit in question; others freely.
        model: a ``CLIPModel``, ``CLIPVisionModelWithProjection`` or ``CLIPVisionModel``.
        processor: its image processor, which makes pixel values out of pictures.
        projection: ``[P, D]``, for a ``CLIPVisionModel``: the projection of the CLIPModel that it belongs to.
    """

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    projection: Tensor | None = field(default=None, repr=False)

    def embed(self, pixels: Tensor) -> Tensor:
        """Normalised image embeddings, float32 ``[B, P]``, of pixel values ``[B, 3, S, S]`` on the model's device."""
        tower = getattr(self.model, "vision_model", self.model)
        pooled = tower(pixel_values=pixels.to(next(tower.parameters()).dtype)).pooler_output
        layer = getattr(self.model, "visual_projection", None)
        if layer is not None:
            return normalize(layer(pooled).float(), dim=-1)
        if self.projection is None:
            raise InputError(f"{self.name} has no projection; name the CLIPModel that it belongs to with text_model")
        return normalize(pooled.float() @ self.projection.to(pooled.device).float().T, dim=-1)

    @property
    def image_size(self) -> int:
        """The side of the pictures that the model sees, in pixels."""
        config = getattr(self.model.config, "vision_config", self.model.config)
        return int(config.image_size)
