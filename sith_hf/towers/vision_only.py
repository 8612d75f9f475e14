"""``VisionOnlyFamily``: towers that were trained without texts. Their vectors are edited by number.

``NoJointSpace`` has what such families share with LLaVA, which compares no pictures with texts either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.towers.family import FamilyDefaults
from sith_hf.towers.tensors import Paths, Tensors, read_layers
from sith_hf.towers.text_tower import TextTower
from sith_hf.towers.tower import Tower


class NoJointSpace(FamilyDefaults):
    """A family whose models embed neither texts nor images in a joint space of both."""

    def has_text(self, architecture: str) -> bool:
        """Return False."""
        return False

    def text(self, model: Any) -> TextTower | None:
        """Return None."""
        return None

    def image_size(self, model: Any) -> int | None:
        """Return None: no images are prepared for these models."""
        return None

    def embed_images(self, model: Any, pixels: Tensor, projection: Tensor | None = None) -> Tensor:
        """Raise InputError: there is no joint space."""
        raise InputError(
            f"a {type(model).__name__} embeds no images in a joint space with texts, so it has no image mean, "
            "retrieval or zero-shot classification: use a model of images and texts, such as its companion"
        )


@dataclass(frozen=True)
class VisionOnlyFamily(NoJointSpace):
    """A family of vision towers that share no joint space with texts.

    Attributes:
        name, model_types: see :class:`sith_hf.towers.TowerFamily`.
        paths: architecture to the path of its tower; empty if the model is the tower.
        layers: the path of the attention layers in a tower.
        parts: the parts of an attention layer.
        bias: whether the projections always have biases.
    """

    name: str
    model_types: Mapping[str, tuple[str, ...]]
    paths: Mapping[str, str]
    layers: str
    parts: Paths
    bias: bool = True

    @property
    def advice(self) -> str:
        """What to do without words."""
        return (
            "leave the concepts out, and edit by number (--gain with --layers, --heads or --vectors; Edit.vectors in "
            "Python)"
        )

    def towers(self, architecture: str) -> Mapping[str, str]:
        """Return the path of the vision tower."""
        return {"vision": self.paths[architecture]}

    def locate(self, root: Any, kind: str) -> tuple[Any, str]:
        """Return the tower and its path. Raises AttributeError for a model of another class."""
        path = self.paths.get(type(root).__name__)
        if path is None:
            raise AttributeError(f"a {type(root).__name__} has no tower of the family {self.name}")
        return root.get_submodule(path), path

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the paths of the output projections in a tower."""
        return [f"{self.layers}.{n}.{self.parts.out}" for n in range(len(tower.get_submodule(self.layers)))]

    def read(self, model: Any, kind: str, companion: Any | None = None) -> Tower:
        """Read the tower. Raises InputError for a companion, since no texts belong to the tower."""
        if companion is not None:
            raise InputError(
                f"a {type(model).__name__} was trained without texts, so no text model belongs to it: leave "
                "text_model (--text-model) out, and edit by number"
            )
        tower, path = self.locate(model, kind)
        tensors = Tensors.of_model(self, model, path)
        heads, count = tower.config.num_attention_heads, len(tower.get_submodule(self.layers))
        return Tower(
            num_heads=heads,
            layers=read_layers(tensors, self.layers, count, heads, None, self.parts, bias=self.bias),
            kind=kind,
            family=self.name,
            settings=self.settings(model.config, kind),
            no_words=f"a {type(model).__name__} has no text, so no words explain its vectors: {self.advice}",
        )
