"""An edit in a model in memory, for as long as a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sith_hf.edits import EditSpec
from sith_hf.errors import InputError
from sith_hf.fingerprint import tensor_sha256
from sith_hf.towers import tensor_key


@contextmanager
def applied(model: Any, spec: EditSpec) -> Iterator[Any]:
    """Edit the tower of ``model`` in place, and put every byte back on leaving, exceptions included.

    Args:
        model: a ``CLIPModel``, ``CLIPVisionModelWithProjection`` or ``CLIPVisionModel``.
        spec: an edit of this model.

    Yields:
        the same model object, edited.

    Raises:
        BaseMismatch: the model's tensors are not the ones that the edit was made for.
        InputError: the spec takes an edit away.
    """
    if spec.reverts:
        raise InputError("this spec takes an edit away; apply the edit itself")
    layers = getattr(model, "vision_model", model).encoder.layers
    found = {}
    for number in spec.layers:
        if number < len(layers):
            projection = layers[number].self_attn.out_proj
            found[tensor_key(number, "out_weight")] = tensor_sha256(projection.weight)
            found[tensor_key(number, "out_bias")] = tensor_sha256(projection.bias)
    written = {tensor_key(number, part) for number in spec.layers for part in ("out_weight", "out_bias")}
    spec.base.only(written).check(found, "this model")

    saved = []
    try:
        for number in spec.layers:
            projection = layers[number].self_attn.out_proj
            weight, bias = spec.apply(number, projection.weight.detach(), projection.bias.detach())
            for parameter, new in ((projection.weight, weight), (projection.bias, bias)):
                saved.append((parameter, parameter.detach().clone()))
                with torch.no_grad():
                    parameter.copy_(new)
        yield model
    finally:
        for parameter, old in saved:
            with torch.no_grad():
                parameter.copy_(old)
