"""The family CLIP, and what families with CLIP's parts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sith_hf.errors import InputError
from sith_hf.towers.family import CLIP_PATHS, Paths, Tensors, norm_tensors, read_layers, read_norm
from sith_hf.towers.model_settings import tower_settings
from sith_hf.towers.readout import Readout
from sith_hf.towers.text_tower import TextTower
from sith_hf.towers.tower import Tower

# The last norm and the projection of each tower, and the attribute of the model that holds the tower.
_NORM = {"vision": "post_layernorm", "text": "final_layer_norm"}
_PROJECTION = {"vision": "visual_projection", "text": "text_projection"}
_TOWER = {"vision": "vision_model", "text": "text_model"}


@dataclass(frozen=True)
class ClipFamily:
    """A family whose towers have CLIP's parts: a layer norm and a projection without bias lead to the joint space.

    Attributes:
        name, model_types: see :class:`sith_hf.towers.TowerFamily`.
        kinds: architecture to its towers; the path of a tower is empty if the model is the tower.
        paths: the parts of an attention layer.
    """

    name: str
    model_types: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, tuple[str, ...]]
    bare: frozenset[str]
    paths: Paths = field(default=CLIP_PATHS)

    def towers(self, architecture: str) -> Mapping[str, str]:
        """Return the paths of the towers."""
        return {kind: "" if architecture in self.bare else _TOWER[kind] for kind in self.kinds[architecture]}

    def nested(self, architecture: str) -> bool:
        """Return whether the class is a tower itself, whose prefix its modules lack from transformers 5.6 on."""
        return architecture in self.bare

    def prefix(self, kind: str) -> str:
        """Return the beginning of a tower's names on disk."""
        return _TOWER[kind]

    def locate(self, root: Any, kind: str) -> tuple[Any, str]:
        """Return the module of a tower and its path."""
        tower = getattr(root, _TOWER[kind], None)
        return (root, "") if tower is None else (tower, _TOWER[kind])

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the paths of the output projections in a tower."""
        return [f"encoder.layers.{n}.{self.paths.out}" for n in range(len(tower.encoder.layers))]

    def settings(self, config: Any, kind: str) -> dict[str, Any]:
        """Return the settings of a tower."""
        return tower_settings(config, kind)

    def read(self, model: Any, kind: str, companion: Any | None = None) -> Tower:
        """Read a tower. Raises InputError for a companion of another width."""
        tower, path = self.locate(model, kind)
        tensors = Tensors.of_model(model, path, nested=self.nested(type(model).__name__))
        readout = self.readout(model, tensors, kind, companion)
        heads, count = tower.config.num_attention_heads, len(tower.encoder.layers)
        return Tower(
            num_heads=heads,
            layers=read_layers(tensors, "encoder.layers", count, heads, readout, self.paths),
            kind=kind,
            family=self.name,
            settings=self.settings(model.config, kind),
        )

    def readout(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> Readout | None:
        """Return the way to the joint space; None for a tower without a projection or companion."""
        name, norm_path = _PROJECTION[kind], _NORM[kind]
        holder = companion if getattr(model, name, None) is None else model
        if holder is None:
            return None
        tower, _ = self.locate(model, kind)
        norm = read_norm(tensors, norm_path, getattr(tower, norm_path).eps)
        matrix = Tensors.of_model(holder, "", nested=False).need(f"{name}.weight")
        if matrix.shape[1] != norm.weight.shape[0]:
            raise InputError(
                f"the companion projects from width {matrix.shape[1]}, this tower has width {norm.weight.shape[0]}: "
                "text_model must be the CLIP model of this tower"
            )
        return Readout(
            name=f"{norm_path}, {name}",
            matrix=matrix,
            norm=norm,
            tensors={**norm_tensors(tensors, norm_path, norm), f"{name}.weight": matrix},
            outside=frozenset({f"{name}.weight"}),
        )

    def has_text(self, architecture: str) -> bool:
        """Return whether the class has a text tower with its projection."""
        return "text" in self.kinds[architecture] and architecture not in self.bare

    def text(self, model: Any) -> TextTower | None:
        """Return the text tower with its projection."""
        if not self.has_text(type(model).__name__):
            return None
        return TextTower(model, model.text_model, model.text_projection)


CLIP = ClipFamily(
    name="clip",
    model_types={
        "clip": ("CLIPModel",),
        "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
        "clip_text_model": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    },
    kinds={
        "CLIPModel": ("vision", "text"),
        "CLIPVisionModel": ("vision",),
        "CLIPVisionModelWithProjection": ("vision",),
        "CLIPTextModel": ("text",),
        "CLIPTextModelWithProjection": ("text",),
    },
    bare=frozenset({"CLIPVisionModel", "CLIPTextModel"}),
)
