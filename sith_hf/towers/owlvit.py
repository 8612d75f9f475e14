"""The families OWL-ViT and OWLv2: CLIP's towers, alone or inside a detection model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.towers.clip import ClipFamily
from sith_hf.towers.readout import Readout
from sith_hf.towers.tensors import Tensors, norm_tensors, read_norm


@dataclass(frozen=True)
class OwlFamily(ClipFamily):
    """CLIP's towers; in a detection model, patches reach the joint space through its class head."""

    def detects(self, architecture: str) -> bool:
        """Return whether a class detects objects."""
        return architecture.endswith("ForObjectDetection")

    def inside(self, architecture: str) -> str:
        """Return the path of the module that holds towers and projections."""
        return f"{self.name}." if self.detects(architecture) else ""

    def readout(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> Readout | None:
        """Return the way to the joint space."""
        if kind == "text" or not self.detects(type(model).__name__):
            return super().readout(model, tensors, kind, companion)
        norm = read_norm(tensors, "post_layernorm", self.locate(model, kind)[0].post_layernorm.eps)
        head = Tensors.of_model(self, model, "class_head.dense0")
        matrix, bias = head.need("weight"), head.need("bias")
        return Readout(
            name="post_layernorm, class_head.dense0",
            matrix=matrix,
            norm=norm,
            bias=bias,
            approximation="without the product of patch and class token, and the layer norm after it",
            tensors={
                **norm_tensors(tensors, "post_layernorm", norm),
                head.name("weight"): matrix,
                head.name("bias"): bias,
            },
        )

    def embed_images(self, model: Any, pixels: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return image embeddings. Raises InputError for a detection model, which embeds each patch."""
        if self.detects(type(model).__name__):
            raise InputError(
                f"a {type(model).__name__} has an embedding for each patch and none for the image: evaluate it as a "
                "detection model"
            )
        return super().embed_images(model, pixels, projection)


def _family(name: str, title: str) -> OwlFamily:
    whole, detection = f"{title}Model", f"{title}ForObjectDetection"
    return OwlFamily(
        name=name,
        model_types={name: (whole, detection)},
        kinds={whole: ("vision", "text"), detection: ("vision", "text")},
        bare=frozenset(),
    )


OWLVIT, OWLV2 = _family("owlvit", "OwlViT"), _family("owlv2", "Owlv2")
