"""The family CLIP: which models are of it, and reading one into a ``VisionTower``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from torch import Tensor

from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers.function import check_class, check_function, unwrapped
from sith_hf.towers.model_settings import vision_settings
from sith_hf.towers.offload import values
from sith_hf.towers.tensor_names import LAYER_PARTS, PROJECTION
from sith_hf.towers.vision_tower import AttentionLayer, VisionTower

# model_type in config.json: its architectures with a vision tower.
SUPPORTED: Mapping[str, tuple[str, ...]] = {
    "clip": ("CLIPModel",),
    "clip_vision_model": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
}


def check_family(model_type: object, architectures: Iterable[str] | None) -> str:
    """Return the architecture to load for a config's ``model_type`` and ``architectures``.

    Raises:
        UnsupportedModel: the family is not in SUPPORTED.
    """
    known = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in SUPPORTED.items())
    if not isinstance(model_type, str) or model_type not in SUPPORTED:
        raise UnsupportedModel(f"model_type {model_type!r} is not supported; supported: {known}")
    names = SUPPORTED[model_type]
    wanted = [architectures] if isinstance(architectures, str) else list(architectures or names[:1])
    for name in wanted:
        if name in names:
            return name
    raise UnsupportedModel(f"architecture {', '.join(wanted)} has no vision tower to edit; supported: {known}")


def config_settings(raw: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the architecture and the settings of the vision tower that the JSON of a ``config.json`` describes.

    The classes of models are not imported for it: that would take two seconds.

    Raises:
        UnsupportedModel: as for :func:`check_family`.
        OSError, ValueError, ...: for values that transformers cannot use (``sith_hf.towers.UNUSABLE``).
    """
    from transformers import CONFIG_MAPPING

    architecture = check_family(raw.get("model_type"), raw.get("architectures"))
    return architecture, vision_settings(CONFIG_MAPPING[raw["model_type"]].from_dict(dict(raw)))


def read_tower(model: Any, companion: Any | None = None) -> VisionTower:
    """Read the tower of a ``CLIPModel``, ``CLIPVisionModelWithProjection`` or ``CLIPVisionModel`` object.

    Args:
        model: the model; its tensors are referenced, not copied, and never changed.
        companion: a ``CLIPModel`` that provides the projection of a vision-only model.

    Raises:
        UnsupportedModel: another kind of model, or one with adapters, parametrizations, quantized or replaced layers
            (:func:`sith_hf.towers.function.check_function`).
        InputError: a companion of another width, or a weight that is not finite.
    """
    model = unwrapped(model)
    check_class(model)
    check_family(model.config.model_type, [type(model).__name__])
    check_function(model)
    if companion is not None:
        check_class(companion := unwrapped(companion))
        check_function(companion)
    # CLIPVisionModel itself is the tower from transformers 5.6 on.
    vision = getattr(model, "vision_model", model)
    stem = "" if vision is model else "vision_model."
    holder = companion if getattr(model, "visual_projection", None) is None else model
    projection = None if holder is None else values(holder, PROJECTION, holder.visual_projection.weight)
    size = vision.post_layernorm.weight.shape[0]
    if projection is not None and projection.shape[1] != size:
        raise InputError(
            f"the companion projects from width {projection.shape[1]}, this tower has width {size}: "
            "text_model must be the CLIP model of this tower"
        )

    def read(path: str) -> Tensor:
        return values(model, stem + path, attrgetter(path)(vision))

    return VisionTower(
        num_heads=vision.config.num_attention_heads,
        layers=tuple(
            AttentionLayer(**{part: read(f"encoder.layers.{number}.{path}") for part, path in LAYER_PARTS.items()})
            for number in range(len(vision.encoder.layers))
        ),
        post_norm_weight=read("post_layernorm.weight"),
        post_norm_bias=read("post_layernorm.bias"),
        post_norm_eps=vision.post_layernorm.eps,
        projection=projection,
        settings=vision_settings(vision.config),
    )
