"""``ModelVariant``: one of several models that embed the same images."""

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
        name: ``"base"`` for the reference of all comparisons, ``"edited"`` for the edit, any other for baselines.
        model: a ``CLIPModel``, ``CLIPVisionModelWithProjection`` or ``CLIPVisionModel``.
        processor: its image processor.
        projection: ``[P, D]``, for a ``CLIPVisionModel``: the projection of its CLIPModel.
    """

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    projection: Tensor | None = field(default=None, repr=False)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return normalised embeddings, float32 ``[B, P]``, of pixel values ``[B, 3, S, S]`` on the model's device."""
        tower = getattr(self.model, "vision_model", self.model)
        pooled = tower(pixel_values=pixels.to(next(tower.parameters()).dtype)).pooler_output
        layer = getattr(self.model, "visual_projection", None)
        if layer is not None:
            return normalize(layer(pooled).float(), dim=-1)
        if self.projection is None:
            raise InputError(f"{self.name} has no visual projection; name its CLIPModel with text_model (--text-model)")
        return normalize(pooled.float() @ self.projection.to(pooled.device).float().T, dim=-1)

    @property
    def image_size(self) -> int:
        """The side of the model's input images, in pixels."""
        config = getattr(self.model.config, "vision_config", self.model.config)
        return int(config.image_size)
