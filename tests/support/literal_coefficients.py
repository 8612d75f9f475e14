"""Coefficients of singular vectors by their definition: s r^T (sum over tokens of attention times the input)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.support.explicit import CLIP_PARTS, Parts, at

AIMV2_PARTS = Parts("attention", "rms_norm1", "v_proj", "out_proj")


def standardised(states: Tensor, norm: Any) -> Tensor:
    """The residual stream as a norm leaves it before its gain and offset."""
    if getattr(norm, "bias", None) is None:
        return states * torch.rsqrt(states.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon)
    centred = states - states.mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + norm.eps)


def attended(run: Any, layers: Any, parts: Parts = CLIP_PARTS, *, fold: bool = True) -> list[Tensor]:
    """What each head of each layer reads, summed over tokens with its attention: ``[B, H, T, D]`` for each layer.

    Args:
        run: runs a float64 model with eager attention on some images.
        layers: its attention layers.
        parts: their parts.
        fold: read the standardised residual stream; without, the output of the norm.
    """
    states: dict[int, Tensor] = {}
    weights: dict[int, Tensor] = {}
    handles = []
    for number, layer in enumerate(layers):
        norm = at(layer, parts.norm)

        def before(module: Any, inputs: Any, output: Any, number: int = number) -> None:
            states[number] = standardised(inputs[0], module) if fold else output

        def after(module: Any, inputs: Any, output: Any, number: int = number) -> None:
            weights[number] = output[1]

        handles += [norm.register_forward_hook(before), at(layer, parts.attention).register_forward_hook(after)]
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return [torch.einsum("bhts,bsd->bhtd", weights[number], states[number]) for number in range(len(layers))]


def siglip_pool(vision: Any, states: Tensor) -> Tensor:
    """What each head of SigLIP's pooling head reads from the encoder's output, ``[B, H, D]``."""
    pool, normed = vision.head.attention, vision.post_layernorm(states)
    (wq, wk, _), (bq, bk, _) = pool.in_proj_weight.chunk(3), pool.in_proj_bias.chunk(3)
    asked = _heads(vision.head.probe.expand(len(states), -1, -1) @ wq.T + bq, pool.num_heads)
    keys = _heads(normed @ wk.T + bk, pool.num_heads)
    weights = (asked @ keys.mT * keys.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ standardised(states, vision.post_layernorm).unsqueeze(1))[:, :, 0]


def aimv2_pool(vision: Any, states: Tensor) -> Tensor:
    """What each head of AIMv2's pooling head reads from the encoder's output, ``[B, H, D]``."""
    head = vision.head
    asked = _heads(head.cls_token.expand(len(states), -1, -1), head.num_heads)
    keys = _heads(head.k_proj(vision.rms_norm(states)), head.num_heads)
    weights = (asked @ keys.mT * keys.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ standardised(states, vision.rms_norm).unsqueeze(1))[:, :, 0]


def coefficients(read: list[Tensor], values: Tensor, directions: Tensor) -> Tensor:
    """The coefficients ``[B, L H R]`` from what heads read at one token, ``[B, H, D]`` for each layer.

    Args:
        read: of each layer.
        values: ``[L, H, R]``, the singular values.
        directions: ``[L, H, R, D]``, the read directions.
    """
    read = torch.stack(read, dim=1)
    return (torch.einsum("blhd,lhrd->blhr", read, directions.double()) * values.double()).flatten(1)


def _heads(states: Tensor, count: int) -> Tensor:
    return states.unflatten(-1, (count, -1)).transpose(1, 2)
