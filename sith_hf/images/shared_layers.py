"""Compute layers that variants share once for all of them.

An edit of the last four layers of a ViT-L/14 leaves the first twenty unchanged, so base and edited together cost
little more than one model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from sith_hf.images.model_variant import BASE, ModelVariant


def embed_all(variants: Sequence[ModelVariant], pixels: Tensor) -> list[Tensor]:
    """Return normalised image embeddings ``[B, P]`` by each variant, bit-identical to each variant's own.

    Args:
        variants: in any order. Those that share first layers with the base start from its output there.
        pixels: ``[B, 3, S, S]`` on the models' device.
    """
    base = next((variant for variant in variants if variant.name == BASE), variants[0])
    depths = [shared_depth(base.model, variant.model) for variant in variants]
    kept: dict[int, Any] = {}
    with ExitStack() as hooks:
        layers = _layers(base.model)
        for depth in sorted({depth for depth in depths if depth}):
            hook = layers[depth - 1].register_forward_hook(_keeper(kept, depth))
            hooks.callback(hook.remove)
        own = base.embed(pixels)
    found = []
    for variant, depth in zip(variants, depths, strict=True):
        if variant is base:
            found.append(own)
        elif depth not in kept:
            found.append(variant.embed(pixels))
        else:
            with _replaced(_layers(variant.model)[:depth], kept[depth]):
                found.append(variant.embed(pixels))
    return found


def shared_depth(base: Any, other: Any) -> int:
    """Count the first layers that share all parameters with the base, as do the embeddings before them."""
    if other is base:
        return 0
    ours, theirs = _layers(base), _layers(other)
    first = _before(base)
    if len(ours) != len(theirs) or first.keys() != (others := _before(other)).keys():
        return 0
    if any(first[name] is not others[name] for name in first):
        return 0
    for depth, (mine, their) in enumerate(zip(ours, theirs, strict=True)):
        pairs = zip(mine.parameters(), their.parameters(), strict=True)
        if any(one is not two for one, two in pairs):
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


def _layers(model: Any) -> Any:
    tower = getattr(model, "vision_model", model)
    return tower.encoder.layers


def _before(model: Any) -> dict[str, Tensor]:
    """Return the parameters before the layers of a tower."""
    tower = getattr(model, "vision_model", model)
    later = ("encoder.", "post_layernorm.", "visual_projection.")
    return {name: value for name, value in tower.named_parameters() if not name.startswith(later)}


def _keeper(kept: dict[int, Any], depth: int) -> Any:
    def keep(module: Any, inputs: Any, output: Any) -> None:
        kept[depth] = output

    return keep


@contextmanager
def _replaced(layers: Sequence[Any], output: Any) -> Iterator[None]:
    """Make layers return ``output`` for any input."""
    with ExitStack() as undo:
        for layer in layers:
            if "forward" in vars(layer):
                undo.callback(setattr, layer, "forward", layer.forward)
            else:
                undo.callback(vars(layer).pop, "forward")
            layer.forward = lambda *inputs, **options: output
        yield
