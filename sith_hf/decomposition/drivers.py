"""``Drivers``: the concepts that drive each pole of each singular vector, measured on images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.short_repr import short_repr
from sith_hf.files import require, text_tensors, texts_of

TENSORS = {
    "driver": (torch.int64, "L H R poles drivers"),
    "driver_correlation": (torch.float32, "L H R poles drivers"),
    "driver_text_bytes": (torch.uint8, "driver-bytes"),
    "driver_text_offsets": (torch.int64, "driver-offsets"),
}
"""Its tensors in the file of a decomposition."""


# The (concept, value) pairs of a pole.
Named = tuple[tuple[str, float], ...]


@short_repr
@dataclass(frozen=True, eq=False)
class Drivers:
    """The concepts whose image-text similarity goes with the coefficient of each pole (Method, sec. 8).

    What drives a vector is not what it writes: in early layers the two are different for most vectors. Only concepts
    beyond chance are named (:func:`sith_hf.grounding.driven_by`), so a pole may have none: it is silent.

    Attributes:
        concept: ``[L, H, R, poles, K]`` int64, indices into ``texts``, -1 where fewer than K.
        correlation: ``[L, H, R, poles, K]`` float32, over images, between the coefficient of the pole and the
            similarity of the concept; positive, descending; 0 where there is no concept.
        texts: the concepts that occur, sorted.
        images: the images, how many, and where in each layer the coefficient was read, as JSON values.
    """

    concept: Tensor
    correlation: Tensor
    texts: tuple[str, ...]
    images: Mapping[str, Any]

    @property
    def silent(self) -> int:
        """The number of poles that no concept drives beyond chance."""
        return int((self.concept < 0).all(dim=-1).sum())

    @property
    def title(self) -> str:
        """The images in words, such as ``1000 images of drawn world: leaves, seed 0``."""
        return f"{self.images.get('count', '?')} images of {self.images.get('title', 'an unknown source')}"

    def named(self, head: tuple[int, int] | tuple[int, int, slice] | None = None) -> list[Named]:
        """Return the (concept, correlation) pairs of every pole, by layer, head, vector, pole.

        Args:
            head: only the poles of one head, by its places on the axes L and H, perhaps of some of its vectors.
        """
        parts = ((t[head] if head else t).flatten(0, -2).tolist() for t in (self.concept, self.correlation))
        pairs = zip(*parts, strict=True)
        return [
            tuple((self.texts[i], value) for i, value in zip(index, values, strict=True) if i >= 0)
            for index, values in pairs
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name in the file."""
        texts = {f"driver_{name}": tensor for name, tensor in text_tensors(self.texts).items()}
        return {"driver": self.concept, "driver_correlation": self.correlation, **texts}

    def to_json(self) -> dict[str, Any]:
        """Return all but the tensors."""
        return dict(self.images)

    @classmethod
    def from_file(cls, value: Any, tensors: Mapping[str, Tensor], path: Path) -> Drivers | None:
        """Read the drivers of an artifact; None for one without. Raises ArtifactError for tensors that do not fit."""
        if value is None and "driver" not in tensors:
            return None
        require("driver" in tensors and isinstance(value, dict), path, "what it says of drivers is not whole")
        renamed = {name.removeprefix("driver_"): tensor for name, tensor in tensors.items() if name in TENSORS}
        texts = texts_of(renamed, path)
        concept, correlation = tensors["driver"], tensors["driver_correlation"]
        named = concept >= 0
        for fits, problem in (
            (((concept >= -1) & (concept < len(texts))).all(), "a driver is beyond the last text of drivers"),
            (((correlation > 0) == named).all(), "a driver has no correlation, or a correlation no driver"),
            ((correlation <= 1 + 1e-3).all(), "a correlation of a driver is beyond 1"),
            ((correlation[..., 1:] <= correlation[..., :-1]).all(), "the correlations of drivers are not descending"),
        ):
            require(bool(fits), path, problem)
        return cls(concept, correlation, texts, value)
