"""An edit as explicit matrices, for every model whose attention modules return their weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Parts(NamedTuple):
    """The paths of an attention module and its norm in a layer, and of its projections and scale below them."""

    attention: str
    norm: str
    value: str
    out: str
    scale: str | None = None


CLIP_PARTS = Parts("self_attn", "layer_norm1", "v_proj", "out_proj")
DINO_PARTS = Parts("attention", "norm1", "v_proj", "o_proj", "layer_scale1.lambda1")


def at(module: Any, path: str) -> Any:
    """The module or parameter at a path."""
    for name in path.split("."):
        module = getattr(module, name)
    return module


class Matrices(NamedTuple):
    """One layer's heads in float64: matrices ``[H, D, D]`` from what the heads read to what the layer writes."""

    plain: Tensor
    left: Tensor
    values: Tensor
    right: Tensor


def matrices(layer: Any, parts: Parts, heads: int, *, fold: bool, write_centred: bool) -> Matrices:
    """The matrices of a layer and the literal SVD of their centred form, ``[H, D, D]``, ``[H, D]``, ``[H, D, D]``.

    With ``fold`` they act on the standardised residual stream, else on the output of the norm.
    """
    attention, norm = at(layer, parts.attention), at(layer, parts.norm)
    value, out = (at(attention, path).weight.detach().double() for path in (parts.value, parts.out))
    size = len(value)
    width = size // heads
    if parts.scale is not None:
        out = torch.diag(at(layer, parts.scale).detach().double()) @ out
    drop = torch.eye(size, dtype=torch.float64) - 1 / size
    found = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        matrix = out[:, part] @ value[part]
        found.append(matrix @ torch.diag(norm.weight.detach().double()) if fold else matrix)
    plain = torch.stack(found)
    centred = plain if not fold else plain @ drop
    if fold and write_centred:
        centred = drop @ centred
    left, values, right = torch.linalg.svd(centred)
    return Matrices(plain, left, values, right)


def explicit(
    model: Any,
    layers: str,
    parts: Parts,
    gains: Mapping[tuple[int, int, int], float],
    *,
    heads: int,
    fold: bool = True,
    write_centred: bool = True,
) -> Any:
    """A float64 copy of a model whose edited heads have the matrices M + sum (g - 1) s w r^T.

    Args:
        model: the model.
        layers: the path of its attention layers.
        parts: their parts.
        gains: (layer, head, vector) to gain.
        heads: H.
        fold, write_centred: as for :func:`matrices`.
    """
    made = copy.deepcopy(model).double().eval()
    made.set_attn_implementation("eager")
    for number, layer in enumerate(at(made, layers)):
        here = {(h, v): gain for (n, h, v), gain in gains.items() if n == number}
        if here:
            at(layer, parts.attention).register_forward_hook(
                _hook(layer, parts, heads, here, fold, write_centred), with_kwargs=True
            )
    return made


def _hook(
    layer: Any, parts: Parts, heads: int, gains: Mapping[tuple[int, int], float], fold: bool, write_centred: bool
) -> Any:
    found, norm = matrices(layer, parts, heads, fold=fold, write_centred=write_centred), at(layer, parts.norm)
    scale = 1.0 if parts.scale is None else at(layer, parts.scale).detach().double()

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        normed = args[0] if args else kwargs["hidden_states"]
        read = (normed - norm.bias) / norm.weight if fold else normed
        change = torch.zeros_like(normed)
        for (head, vector), gain in gains.items():
            rank_one = found.values[head, vector] * torch.outer(found.left[head, :, vector], found.right[head, vector])
            change = change + (gain - 1) * output[1][:, head] @ read @ rank_one.T
        return (output[0] + change / scale, *output[1:])

    return hook
