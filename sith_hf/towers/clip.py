"""The family CLIP, and what families with CLIP's parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers.attention import AttentionLayer
from sith_hf.towers.family import FamilyDefaults
from sith_hf.towers.readout import Readout
from sith_hf.towers.tensors import CLIP_PATHS, Paths, Tensors, norm_tensors, read_layers, read_norm
from sith_hf.towers.text_tower import TextTower
from sith_hf.towers.tower import Tower

# The last norm and the projection of each tower, and the attribute of the model that holds the tower.
_NORM = {"vision": "post_layernorm", "text": "final_layer_norm"}
_PROJECTION = {"vision": "visual_projection", "text": "text_projection"}
_TOWER = {"vision": "vision_model", "text": "text_model"}


def square(size: Any) -> int:
    """Return the side of square images, from an ``image_size`` in a configuration. Raises UnsupportedModel."""
    sides = {size} if isinstance(size, int) else set(size or ())
    if len(sides) != 1:
        raise UnsupportedModel(f"image_size is {size!r} in config.json: only models of square images are supported")
    return int(sides.pop())


@dataclass(frozen=True)
class ClipFamily(FamilyDefaults):
    """A family whose towers have CLIP's parts: a layer norm and a projection without bias lead to the joint space.

    Attributes:
        name, model_types: see :class:`sith_hf.towers.TowerFamily`.
        kinds: architecture to its towers; the path of a tower is empty if the model is the tower.
        bare: the architectures that are a tower themselves.
        paths: the parts of an attention layer.
        example: a whole model on the Hub, for messages.
        lacks: what a tower without a way to the joint space lacks, for messages.
        texts: makes the text tower of a model, the module that reads tokens, and the projection or None.
    """

    name: str
    model_types: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, tuple[str, ...]]
    bare: frozenset[str]
    paths: Paths = field(default=CLIP_PATHS)
    example: str = "openai/clip-vit-base-patch32"
    lacks: str = "a projection into the joint space"
    texts: Callable[[Any, Any, Any], TextTower] = TextTower

    @property
    def advice(self) -> str:
        """What to do about a model that embeds no texts."""
        return (
            f'name the whole model that it belongs to with text_model="{self.example}" (--text-model on the command '
            "line)"
        )

    def towers(self, architecture: str) -> Mapping[str, str]:
        """Return the paths of the towers."""
        stem = self.inside(architecture)
        return {kind: "" if architecture in self.bare else f"{stem}{_TOWER[kind]}" for kind in self.kinds[architecture]}

    def inside(self, architecture: str) -> str:
        """Return the path, with its last dot, of the module that holds towers and projections; empty for the model."""
        return ""

    def whole(self, model: Any) -> Any:
        """Return the module that holds towers and projections."""
        return model.get_submodule(self.inside(type(model).__name__).removesuffix("."))

    def projection(self, model: Any, kind: str) -> Any | None:
        """Return the module that projects the output of a tower; None for a model without it."""
        return getattr(self.whole(model), _PROJECTION[kind], None)

    def nested(self, architecture: str) -> bool:
        """Return whether the class is a tower itself, whose prefix its modules lack from transformers 5.6 on."""
        return architecture in self.bare

    def prefix(self, kind: str) -> str:
        """Return the beginning of a tower's names on disk."""
        return _TOWER[kind]

    def locate(self, root: Any, kind: str) -> tuple[Any, str]:
        """Return the module of a tower and its path."""
        stem = self.inside(type(root).__name__)
        tower = getattr(self.whole(root), _TOWER[kind], None)
        return (root, "") if tower is None else (tower, f"{stem}{_TOWER[kind]}")

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the paths of the output projections in a tower."""
        return [f"encoder.layers.{n}.{self.paths.out}" for n in range(len(tower.encoder.layers))]

    def read(self, model: Any, kind: str, companion: Any | None = None) -> Tower:
        """Read a tower. Raises InputError for a companion of another width."""
        tower, path = self.locate(model, kind)
        tensors = Tensors.of_model(self, model, path)
        return Tower(
            num_heads=tower.config.num_attention_heads,
            layers=self.layers(model, tensors, kind, companion),
            kind=kind,
            family=self.name,
            settings=self.settings(model.config, kind),
            partial=self.partial(type(model).__name__, model.config, kind),
            no_words=f"this checkpoint is a {kind} tower without {self.lacks}: {self.advice}",
        )

    def layers(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> tuple[AttentionLayer, ...]:
        """Return the attention layers of a tower, whose tensors are given; a pooling head is the last."""
        tower, _ = self.locate(model, kind)
        heads, count = tower.config.num_attention_heads, len(tower.encoder.layers)
        readout = self.readout(model, tensors, kind, companion)
        return read_layers(tensors, "encoder.layers", count, heads, readout, self.paths)

    def readout(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> Readout | None:
        """Return the way to the joint space; None for a tower without a projection or companion."""
        name, norm_path = _PROJECTION[kind], _NORM[kind]
        holder = model if self.projection(model, kind) is not None else companion
        if holder is None:
            return None
        tower, _ = self.locate(model, kind)
        norm = read_norm(tensors, norm_path, getattr(tower, norm_path).eps)
        path = f"{self.inside(type(holder).__name__)}{name}.weight"
        held = Tensors.of_model(self, holder, "")
        matrix, name_on_disk = held.need(path), held.name(path)
        if matrix.shape[1] != norm.weight.shape[0]:
            raise InputError(
                f"the companion projects from width {matrix.shape[1]}, this tower has width {norm.weight.shape[0]}: "
                "text_model must be the CLIP model of this tower"
            )
        return Readout(
            name=f"{norm_path}, {name}",
            matrix=matrix,
            norm=norm,
            tensors={**norm_tensors(tensors, norm_path, norm), name_on_disk: matrix},
            outside=frozenset({name_on_disk}),
        )

    def has_text(self, architecture: str) -> bool:
        """Return whether the class has a text tower with its projection."""
        return "text" in self.kinds[architecture] and architecture not in self.bare

    def text(self, model: Any) -> TextTower | None:
        """Return the text tower with its projection."""
        if not self.has_text(type(model).__name__):
            return None
        return self.texts(model, self.locate(model, "text")[0], self.projection(model, "text"))

    def image_size(self, model: Any) -> int | None:
        """Return the side of the images that a model takes, in pixels; None if it takes any."""
        return square(getattr(model.config, "vision_config", model.config).image_size)

    def class_token(self, model: Any) -> Tensor | None:
        """Return the class token with its position embedding, ``[D]``; None without one."""
        parts = self.locate(model, "vision")[0].embeddings
        if not hasattr(parts, "class_embedding"):
            return None
        found: Tensor = parts.class_embedding.detach() + parts.position_embedding.weight.detach()[0]
        return found

    def embed_images(self, model: Any, pixels: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return image embeddings, as ``get_image_features`` does. Raises InputError without a projection."""
        whole = self.whole(model)
        if hasattr(whole, "get_image_features"):
            found: Tensor = whole.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
            return found
        pooled: Tensor = self.locate(model, "vision")[0](pixel_values=pixels, return_dict=True).pooler_output
        own = self.projection(model, "vision")
        if own is not None:
            joint: Tensor = own(pooled)
            return joint
        if projection is None:
            raise InputError(f"a {type(model).__name__} has no visual projection: {self.advice}")
        return pooled.float() @ projection.to(pooled.device).float().T


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
