"""What each singular vector of a CLIP of the drawn world truly writes, and what truly drives it.

Both are measured on pictures whose content is known, by a forward pass of our own that shares no code with the
package's readers of coefficients:

- written: the vector is removed (gain 0) at every token, and the change of each value's logit is compared with the
  vector's coefficient at the class token: their covariance over pictures. A value (a colour, an object, ...) is written
  by the plus pole if its logit rises with the coefficient at least half as much as that of the value that rises most,
  and by the minus pole if it falls likewise.
- drives: a value drives the plus pole if the coefficient at the class token is larger in pictures that show it than in
  others, by at least half as much as for the value of the largest difference; the minus pole likewise with smaller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from sith_hf import Decomposition, world
from sith_hf.demo.zeroshot import pixel_values
from sith_hf.files import write_whole

AXES = tuple(names for names, _ in world.TASKS.values())
VALUES = tuple(name for names in AXES for name in names)


@dataclass(frozen=True, eq=False)
class Truth:
    """What holds for L layers of N vectors each, over V values: float32, for the plus pole.

    Attributes:
        written: ``[L, N, V]``, how much the logit of each value rises with the coefficient, less the mean over values.
        driven: ``[L, N, V]``, how much larger the coefficient is in pictures that show each value.
    """

    written: Tensor
    driven: Tensor


def near_largest(effects: Tensor, share: float = 0.5) -> Tensor:
    """Return which effects ``[..., V]`` are positive and at least ``share`` of the largest of their row."""
    return (effects >= share * effects.amax(dim=-1, keepdim=True)) & (effects > 0)


def true_values(effects: Tensor, share: float = 0.5) -> Tensor:
    """Return which values are true of each pole, ``[..., 2, V]`` bool: plus, minus; ``effects`` is ``[..., V]``."""
    return near_largest(torch.stack([effects, -effects], dim=-2), share)


def value_of(texts: Sequence[str]) -> Tensor:
    """Return the index in ``VALUES`` of the value that each word names, ``[M]``."""
    starts = np.cumsum([0, *map(len, AXES)])
    found = [next((axis, index) for axis, index in enumerate(world.mentions(text)) if index >= 0) for text in texts]
    return torch.tensor([int(starts[axis]) + index for axis, index in found])


def draw(count: int, seed: int) -> tuple[NDArray[np.uint8], Tensor]:
    """Draw pictures of all objects, with all attributes uniform and independent.

    Returns:
        pictures uint8 ``[count, side, side, 3]``, and which values each shows, bool ``[count, V]``.
    """
    rng = np.random.default_rng([seed, 8])
    codes = np.stack([rng.integers(0, len(names), count) for names in AXES], axis=1)
    shown = np.concatenate([codes[:, [axis]] == np.arange(len(names)) for axis, names in enumerate(AXES)], axis=1)
    return world.compose(codes, rng), torch.from_numpy(shown)


class Pictures:
    """The activations of a CLIP vision tower on B pictures of T tokens, float32.

    Args:
        model: a ``CLIPModel``.
        pixels: ``[B, 3, side, side]``.
    """

    @torch.no_grad()
    def __init__(self, model: Any, pixels: Tensor) -> None:
        self.tower, self.project = model.vision_model, model.visual_projection
        self.layers = list(self.tower.encoder.layers)
        self.heads = int(self.tower.config.num_attention_heads)
        self.attended: list[Tensor] = []
        self.context: list[Tensor] = []
        hidden = self.tower.pre_layrnorm(self.tower.embeddings(pixels))
        for layer in self.layers:
            context = self._context(layer, hidden, hidden.shape[1])
            self.context.append(context)
            self.attended.append(hidden + layer.self_attn.out_proj(context.flatten(2)))
            hidden = self._after(layer, self.attended[-1])
        self.embeddings = self._embed(hidden[:, 0])

    def _context(self, layer: Any, hidden: Tensor, queries: int) -> Tensor:
        """Return what each head attends to at the first ``queries`` tokens, ``[B, queries, H, d]``."""
        attention, x = layer.self_attn, layer.layer_norm1(hidden)
        parts = (attention.q_proj(x[:, :queries]), attention.k_proj(x), attention.v_proj(x))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def _after(self, layer: Any, attended: Tensor) -> Tensor:
        return attended + layer.mlp(layer.layer_norm2(attended))

    def _embed(self, first: Tensor) -> Tensor:
        return normalize(self.project(self.tower.post_layernorm(first)), dim=-1)

    @torch.no_grad()
    def coefficients(self, number: int, write: Tensor) -> Tensor:
        """Return the coefficient of each vector ``[H, R, D]`` of a layer at each token, ``[B, T, N]``.

        It is s r^T (sum over tokens of attention times the layer norm's output before gain and offset), computed from
        the context without its constant: w^T C B z.
        """
        layer = self.layers[number]
        attention, norm = layer.self_attn, layer.layer_norm1
        constant = (attention.v_proj.weight @ norm.bias + attention.v_proj.bias).unflatten(0, (self.heads, -1))
        out = attention.out_proj.weight.unflatten(1, (self.heads, -1))
        # Write directions are free of the all-ones direction, so that w^T C is w^T.
        row = torch.einsum("hrd,dhk->hrk", write, out)
        found = torch.einsum("bthk,hrk->bthr", self.context[number] - constant, row)
        return found.flatten(2)

    @torch.no_grad()
    def without(self, number: int, coefficient: Tensor, write: Tensor) -> Tensor:
        """Return embeddings without one vector of a layer, ``[B, P]``; ``coefficient`` is ``[B, T]``."""
        if number == len(self.layers) - 1:
            attended = self.attended[number][:, 0] - coefficient[:, :1] * write
            return self._embed(self._after(self.layers[number], attended))
        hidden = self._after(self.layers[number], self.attended[number] - coefficient.unsqueeze(-1) * write)
        for layer in self.layers[number + 1 : -1]:
            context = self._context(layer, hidden, hidden.shape[1])
            hidden = self._after(layer, hidden + layer.self_attn.out_proj(context.flatten(2)))
        # Only the class token of the last layer reaches the embedding.
        last = self.layers[-1]
        first = hidden[:, 0] + last.self_attn.out_proj(self._context(last, hidden, 1).flatten(2))[:, 0]
        return self._embed(self._after(last, first))


@torch.no_grad()
def written(pictures: Pictures, number: int, write: Tensor, values: Tensor) -> Tensor:
    """Return how the logit of each value rises with the coefficient of each vector of a layer, ``[N, V]``.

    Args:
        pictures: the activations on B pictures.
        number: of the layer.
        write: the vectors' write directions, ``[H, R, D]``.
        values: the text embedding of each value, ``[V, P]``, unit rows.
    """
    coefficients, before = pictures.coefficients(number, write), pictures.embeddings @ values.T
    first = coefficients[:, 0] - coefficients[:, 0].mean(dim=0)
    rows = []
    for n, direction in enumerate(write.flatten(0, 1)):
        change = before - pictures.without(number, coefficients[:, :, n], direction) @ values.T
        rows.append((first[:, n, None] * change).mean(dim=0))
    found = torch.stack(rows)
    return found - found.mean(dim=-1, keepdim=True)


def driven(pictures: Pictures, number: int, write: Tensor, shown: Tensor) -> Tensor:
    """Return how much larger each coefficient is in pictures that show a value, bool ``[B, V]``, than in others."""
    first, of = pictures.coefficients(number, write)[:, 0], shown.to(write.dtype)
    inside, outside = of / of.sum(0).clamp(min=1), (1 - of) / (1 - of).sum(0).clamp(min=1)
    return first.T @ (inside - outside)


def measure(
    model: Any, found: Decomposition, values: Tensor, folder: Path, *, pictures: int, labelled: int, seed: int
) -> Truth:
    """Measure all vectors of a CLIP of the world; finished layers are kept in ``folder``.

    Args:
        model: the ``CLIPModel``.
        found: its vectors.
        values: the text embedding of each value, ``[V, P]``.
        folder: of the parts.
        pictures: on which each vector is removed.
        labelled: pictures for what drives, on which one forward pass serves all vectors.
        seed: of the pictures.
    """
    facts = json.dumps([sorted(found.base.sha256.items()), pictures, labelled, seed]).encode()
    name = hashlib.sha256(facts).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    images, _ = draw(pictures, seed)
    some = Pictures(model, pixel_values(images))
    images, shown = draw(labelled, seed + 1)
    many = Pictures(model, pixel_values(images))
    parts = []
    for number, write in zip(found.layers, found.write, strict=True):
        path = folder / f"truth-{name}-{number}.safetensors"
        if not path.exists():
            made = {
                "written": written(some, number, write, values),
                "driven": driven(many, number, write, shown),
            }
            write_whole(path, save_tensors({key: tensor.contiguous() for key, tensor in made.items()}))
        parts.append(load_file(path))
    return Truth(*(torch.stack([part[key] for part in parts]) for key in ("written", "driven")))
