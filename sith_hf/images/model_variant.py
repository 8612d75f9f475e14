"""``ModelVariant``: one of several models that embed the same images. Layers that variants share run once for all.

An edit of the last four layers of a ViT-L/14 leaves the first twenty unchanged, so base and edited together cost
little more than one model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.core.short_repr import short_repr
from sith_hf.errors import InputError
from sith_hf.images.pixel_settings import pixel_settings
from sith_hf.towers import LoadedModel, family_of

BASE, EDITED = "base", "edited"

# The path of a layer of an encoder, at the beginning of the path of its output projection.
_LAYER = re.compile(r".*?\.\d+(?=\.)")

# Variants with one part of an edit of two towers.
PARTS = {"vision": "vision only", "text": "text only"}


@short_repr
@dataclass(frozen=True, eq=False)
class ModelVariant:
    """One model in an evaluation.

    Attributes:
        name: ``"base"`` for the reference of all comparisons, ``"edited"`` for the edit, one of ``PARTS`` for the part
            of it in one tower, any other for baselines.
        model: a model with a vision tower.
        processor: its image processor.
        projection: ``[P, D]``, for a model without one, such as a ``CLIPVisionModel``: that of its whole model.
        text: the model whose text tower encodes texts for this variant, if the variants differ in it; None for the one
            of the whole evaluation.
        device: where it runs; None leaves the choice to each step (:mod:`sith_hf.core.devices`).
    """

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    projection: Tensor | None = field(default=None, repr=False)
    text: LoadedModel | None = field(default=None, repr=False, kw_only=True)
    device: torch.device | None = field(default=None, kw_only=True)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return normalised embeddings, float32 ``[B, P]``, of pixel values ``[B, 3, S, S]`` on the model's device."""
        tower = vision_tower(self.model)
        pixels = pixels.to(next(tower.parameters()).dtype)
        return normalize(family_of(self.model).embed_images(self.model, pixels, self.projection).float(), dim=-1)

    @property
    def image_size(self) -> int | None:
        """The side of the model's input images, in pixels; None if it takes any."""
        return family_of(self.model).image_size(self.model)


def vision_tower(model: Any) -> Any:
    """Return the vision transformer inside any of the models of :class:`ModelVariant`."""
    return family_of(model).locate(model, "vision")[0]


def check_processors(variants: Sequence[ModelVariant]) -> None:
    """Raise InputError unless all variants have equal image processors, since all of them see the same batches."""
    first = variants[0].processor
    for variant in variants:
        own = variant.processor
        if own is not first and (not hasattr(own, "to_dict") or pixel_settings(own) != pixel_settings(first)):
            raise InputError(
                f"{variant.name} and {variants[0].name} have different image processors; all variants see the same "
                "batches: use one image processor"
            )


def embed_all(variants: Sequence[ModelVariant], pixels: Tensor) -> list[Tensor]:
    """Return normalised image embeddings ``[B, P]`` by each variant, bit-identical to each variant's own.

    Args:
        variants: in any order. Those that share first layers with the base start from its output there.
        pixels: ``[B, 3, S, S]`` on the models' device.
    """
    base = next((variant for variant in variants if variant.name == BASE), variants[0])
    depths = [shared_depth(base.model, variant.model) for variant in variants]
    kept: dict[int, Any] = {}

    def keep(depth: int, module: Any, inputs: Any, output: Any) -> None:
        kept[depth] = output

    with ExitStack() as hooks:
        for depth in {depth for depth in depths if depth}:
            hook = layers_of(base.model)[depth - 1].register_forward_hook(partial(keep, depth))
            hooks.callback(hook.remove)
        own = base.embed(pixels)
    found = []
    for variant, depth in zip(variants, depths, strict=True):
        with replaced(layers_of(variant.model)[:depth], kept.get(depth)):
            found.append(own if variant is base else variant.embed(pixels))
    return found


def shared_depth(base: Any, other: Any) -> int:
    """Count the first layers that share all parameters with the base; 0 unless all before and after them are shared."""
    ours, theirs = layers_of(base), layers_of(other)
    first, others = _before(base), _before(other)
    if other is base or len(ours) != len(theirs) or first.keys() != others.keys():
        return 0
    if any(first[name] is not others[name] for name in first):
        return 0
    for depth, (mine, their) in enumerate(zip(ours, theirs, strict=True)):
        if any(one is not two for one, two in zip(mine.parameters(), their.parameters(), strict=True)):
            return depth
    return len(ours)


def share(base: Any, other: Any) -> None:
    """Replace parameters of ``other`` by those of ``base`` wherever values and dtype are equal."""
    ours = dict(base.named_parameters())
    for path, module in other.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            mine = ours.get(f"{path}.{name}" if path else name)
            if mine is not None and mine.dtype == parameter.dtype and torch.equal(mine, parameter):
                module.register_parameter(name, mine)


def layers_of(model: Any) -> list[Any]:
    """Return the modules of the layers of an encoder, without an attention-pooling head."""
    tower = vision_tower(model)
    return [tower.get_submodule(path) for path in _layer_paths(model)]


def _layer_paths(model: Any) -> list[str]:
    paths = family_of(model).outputs(vision_tower(model))
    return [found[0] for path in paths if (found := _LAYER.match(path))]


def _before(model: Any) -> dict[str, Tensor]:
    """Return the parameters of a tower outside its layers and its attention-pooling head's output projection."""
    outputs = family_of(model).outputs(vision_tower(model))
    later = tuple(f"{path}." for path in (*_layer_paths(model), *outputs))
    return {name: value for name, value in vision_tower(model).named_parameters() if not name.startswith(later)}


@contextmanager
def replaced(layers: Sequence[Any], output: Any) -> Iterator[None]:
    """Make layers return ``output`` for any input."""
    with ExitStack() as undo:
        for layer in layers:
            if "forward" in vars(layer):
                undo.callback(setattr, layer, "forward", layer.forward)
            else:
                undo.callback(vars(layer).pop, "forward")
            layer.forward = lambda *inputs, **options: output
        yield
