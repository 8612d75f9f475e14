"""The probabilities of labels that a model gives an image, by its own temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sith_hf.core.short_repr import short_repr

Floats = NDArray[np.float64]

CLIP_SCALE = 100.0
"""What OpenAI's CLIP multiplies cosines by; used for a model that records no temperature."""


@short_repr
@dataclass(frozen=True)
class Temperature:
    """How a model turns a cosine into a probability.

    Attributes:
        scale: cosines are multiplied by it.
        bias: added to them, by a model that judges each label by itself (SigLIP: sigmoid); None for a model that
            chooses one of the labels (CLIP: softmax).
        known: whether the model records it; :data:`CLIP_SCALE` if not.
    """

    scale: float
    bias: float | None = None
    known: bool = True

    @classmethod
    def of(cls, model: Any) -> Temperature:
        """Return the temperature of a model with a text tower."""
        scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
        if scale is None:
            return cls(CLIP_SCALE, known=False)
        value, most = float(scale.detach().float().item()), getattr(model.config, "max_logit_scale", None)
        if isinstance(most, int | float):  # AIMv2
            value = min(max(value, 0.0), math.log(most))
        return cls(math.exp(value), None if bias is None else float(bias.detach().float().item()))

    def probabilities(self, images: NDArray[np.floating[Any]], labels: Floats) -> Floats:
        """Return the probability of each label, float64 ``[N, K]``.

        Args:
            images: ``[N, P]`` normalised.
            labels: ``[K, P]`` normalised.
        """
        logits = self.scale * (images.astype(np.float64) @ labels.T)
        if self.bias is not None:
            return np.asarray(0.5 * (1 + np.tanh((logits + self.bias) / 2)))
        exponential = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(exponential / exponential.sum(axis=-1, keepdims=True))
