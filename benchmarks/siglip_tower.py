"""A SigLIP vision tower in float64: its singular vectors, and what pictures' embeddings are without one of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize
from transformers import SiglipModel

from sith_hf.decomposition import factored_svd
from sith_hf.demo.zeroshot import pixel_values

POOL = -1


@dataclass
class Vectors:
    """Singular vectors of the H heads of a layer, flattened: ``write``, ``read`` ``[N, D]``, ``values`` ``[N]``."""

    write: Tensor
    values: Tensor
    read: Tensor
    head: Tensor


class Tower:
    """The tensors of a SigLIP vision tower in float64."""

    def __init__(self, model: SiglipModel) -> None:
        self.model = copy.deepcopy(model).double().eval()
        self.vision = self.model.vision_model
        self.pool = self.vision.head
        self.size = self.vision.config.hidden_size
        self.heads = self.vision.config.num_attention_heads

    @property
    def layers(self) -> Any:
        return self.vision.encoder.layers

    def post(self, x: Tensor) -> Tensor:
        """LN_post."""
        return self.vision.post_layernorm(x)

    def finish(self, r: Tensor) -> Tensor:
        """F(r) = r + MLP(LN r), the embedding before it is normalised."""
        return r + self.pool.mlp(self.pool.layernorm(r))

    @cached_property
    def value(self) -> tuple[Tensor, Tensor]:
        """W_V and b_V of the pool."""
        attention = self.pool.attention
        return attention.in_proj_weight[2 * self.size :], attention.in_proj_bias[2 * self.size :]

    @cached_property
    def chain(self) -> Tensor:
        """W_O W_V of the pool, all heads together."""
        return self.pool.attention.out_proj.weight @ self.value[0]

    @cached_property
    def constant(self) -> Tensor:
        """The output of the pool's attention if all tokens were the offset of LN_post."""
        out = self.pool.attention.out_proj
        return out.weight @ (self.value[0] @ self.vision.post_layernorm.bias + self.value[1]) + out.bias

    def weights(self, layer: int) -> tuple[Any, Tensor, Tensor]:
        """Return the norm, the value weights and the output weights of a layer."""
        if layer == POOL:
            return self.vision.post_layernorm, self.value[0], self.pool.attention.out_proj.weight
        found = self.layers[layer]
        return found.layer_norm1, found.self_attn.v_proj.weight, found.self_attn.out_proj.weight

    def vectors(self, layer: int) -> Vectors:
        """Decompose a layer: fold and centre the read side; centre the write side of encoder heads only."""
        norm, value, out = self.weights(layer)
        read = (value * norm.weight).reshape(self.heads, -1, self.size)
        read = read - read.mean(-1, keepdim=True)
        write = out.reshape(self.size, self.heads, -1).permute(1, 0, 2)
        if layer != POOL:
            write = write - write.mean(1, keepdim=True)
        found = factored_svd(write.contiguous(), read.contiguous())
        rank = found.values.shape[1]
        return Vectors(
            found.write.flatten(0, 1),
            found.values.flatten(),
            found.read.flatten(0, 1),
            torch.arange(self.heads).repeat_interleave(rank),
        )


class Pictures:
    """The activations of a tower on pictures."""

    def __init__(self, tower: Tower, images: Any) -> None:
        self.tower = tower
        pixels = pixel_values(images).double()
        self.inputs: list[Tensor] = []
        self.attended: list[Tensor] = []
        hidden = tower.vision.embeddings(pixels)
        for layer in tower.layers:
            self.inputs.append(hidden)
            self.attended.append(hidden + layer.self_attn(layer.layer_norm1(hidden))[0])
            hidden = layer(hidden, None)
        self.last = hidden
        self.r = self.attend(hidden)
        self.embedding = normalize(tower.finish(self.r), dim=-1)

    def attend(self, hidden: Tensor) -> Tensor:
        """Return r of the last hidden states."""
        pool, x = self.tower.pool, self.tower.post(hidden)
        return pool.attention(pool.probe.expand(len(x), -1, -1), x, x, need_weights=False)[0][:, 0]

    def coefficients(self, layer: int, vectors: Vectors) -> Tensor:
        """Return s r^T (sum over tokens of attention times LN(x)), ``[images, tokens, vectors]``; the pool has one."""
        tower = self.tower
        if layer == POOL:
            pool, x = tower.pool, tower.post(self.last)
            query = pool.probe.expand(len(x), -1, -1)
            weights = pool.attention(query, x, x, average_attn_weights=False)[1]
            states = self.last
        else:
            found, states = tower.layers[layer], self.inputs[layer]
            weights = found.self_attn(found.layer_norm1(states))[1]
        plain = layer_norm(states, (tower.size,), eps=tower.vision.config.layer_norm_eps)
        read = plain @ (vectors.read * vectors.values[:, None]).T
        return torch.cat(
            [torch.einsum("nqk,nkv->nqv", weights[:, h], read[:, :, vectors.head == h]) for h in range(tower.heads)],
            dim=-1,
        )

    def removed(self, layer: int, coefficient: Tensor, write: Tensor) -> Tensor:
        """Return embeddings without a vector of a layer; ``coefficient`` is ``[images, tokens]``."""
        tower, gone = self.tower, coefficient[..., None] * write
        if layer == POOL:
            return normalize(tower.finish(self.r - gone[:, 0]), dim=-1)
        found = tower.layers[layer]
        attended = self.attended[layer] - gone
        hidden = attended + found.mlp(found.layer_norm2(attended))
        for later in tower.layers[layer + 1 :]:
            hidden = later(hidden, None)
        return normalize(tower.finish(self.attend(hidden)), dim=-1)

    def changes(self, layer: int, vectors: Vectors, values: Tensor) -> Tensor:
        """Return for each vector how the logits of each value rise with its coefficient, ``[vectors, values]``."""
        coefficients, before = self.coefficients(layer, vectors), self.embedding @ values.T
        found = []
        for number in range(len(vectors.write)):
            own = coefficients[:, :, number]
            change = before - self.removed(layer, own, vectors.write[number]) @ values.T
            found.append((own.mean(1)[:, None] * change).mean(0))
        changes = torch.stack(found)
        return changes - changes.mean(1, keepdim=True)
