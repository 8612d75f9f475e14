"""Where in an image the coefficient of a vector comes from: the part of each token, which add up to it exactly.

With attention_t from the token where the coefficient is read, and x_t what the head reads at token t ::

    a = sum over t of attention_t * s r^T x_t = sum over t of attention_t * (w^T B_h v_t - constant)

(Method, sec. 8), where v_t are the values of the head. The attention is that of the layer itself: its module runs once
more, and the gradient of a with respect to its values is attention_t times the row w^T B_h. So every family and every
implementation of attention has its parts, rotary positions and masks included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition import Decomposition
from sith_hf.errors import UnsupportedModel
from sith_hf.grounding.coefficients import MEAN, LayerRows, Vector, layer_rows, watch_context
from sith_hf.towers import Tower, family_of


@short_repr
@dataclass(frozen=True, eq=False)
class TokenParts:
    """The parts of T tokens in the coefficients of one vector on B images.

    Attributes:
        tokens: ``[B, T]``, in the order of the tower's tokens; each row adds up to the coefficient.
        grid: the rows and columns of patches, which are the last tokens.
    """

    tokens: Tensor
    grid: tuple[int, int]

    @property
    def patches(self) -> Tensor:
        """The parts of the patches, ``[B, rows, columns]``."""
        return self.tokens[:, -self.grid[0] * self.grid[1] :].reshape(-1, *self.grid)

    @property
    def others(self) -> Tensor:
        """The part of the tokens before the patches, such as the class token, ``[B]``."""
        return self.tokens[:, : -self.grid[0] * self.grid[1]].sum(dim=1)


def token_parts(
    model: Any,
    tower: Tower,
    decomposition: Decomposition,
    vector: Vector,
    pixels: Tensor,
    embed: Callable[[Tensor], Any],
) -> TokenParts:
    """Return the part of each token in a vector's coefficients on images.

    Args:
        model: a model with the tower, in evaluation mode.
        tower: the vision tower that was decomposed, of this model.
        decomposition: its singular vectors.
        vector: (layer, head, vector).
        pixels: ``[B, 3, S, S]`` on the model's device.
        embed: runs the model on pixel values.

    Raises:
        UnsupportedModel: the layer has no separate values, or its patches are not known.
    """
    module, _ = family_of(model).locate(model, tower.kind)
    grid = patch_grid(module, pixels)
    path = family_of(model).outputs(module)[vector[0]]
    attention = module.get_submodule(path.rpartition(".")[0])
    called: dict[str, Any] = {}

    def keep(_: Any, inputs: Any, options: Any) -> None:
        called.update(inputs=inputs, options=options)

    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            embed(pixels)
    finally:
        handle.remove()
    rows = layer_rows(model, tower, decomposition, [vector])[vector[0]]
    with torch.enable_grad():
        values, context = _attended(model, module, path, _detached(called["inputs"]), _detached(called["options"]))
        parts = _parts(rows, values, context, vector[1] * tower.head_size, tower.head_size)
    if parts.shape[1] < grid[0] * grid[1]:
        raise UnsupportedModel(f"the tower has {parts.shape[1]} tokens, fewer than its {grid} patches")
    return TokenParts(parts, grid)


def patch_grid(tower: Any, pixels: Tensor) -> tuple[int, int]:
    """Return the rows and columns of patches of images. Raises UnsupportedModel if their size is not known."""
    size = getattr(getattr(tower, "config", None), "patch_size", None)
    if not isinstance(size, int) or size < 1:
        raise UnsupportedModel(f"the size of this tower's patches is not known (patch_size is {size!r})")
    return pixels.shape[-2] // size, pixels.shape[-1] // size


def _parts(rows: LayerRows, values: Tensor, context: Tensor, start: int, width: int) -> Tensor:
    """Return ``[B, T]`` from the values ``[B, T, D]`` and the contexts made of them, of a head's columns."""
    row, constant = rows.weight[0].to(values), rows.bias[0].to(values)
    context = context.reshape(len(values), -1, context.shape[-1])  # a pool may have no axis of tokens
    read = context.mean(dim=1) if rows.where == MEAN else context[:, 0]
    (slope,) = torch.autograd.grad((read @ row).sum(), values)
    head = row[start : start + width]
    slope, own = slope.detach()[..., start : start + width], values.detach()[..., start : start + width]
    # The slope is the attention times the row.
    attention = slope @ head / (head @ head).clamp(min=torch.finfo(head.dtype).tiny)
    return (slope * own).sum(dim=-1) + attention * constant


def _attended(
    model: Any, tower: Any, path: str, inputs: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Run an attention module; return its values ``[B, T, D]`` as a leaf, and what its output projection reads."""
    attention = tower.get_submodule(path.rpartition(".")[0])
    if hasattr(attention, "in_proj_weight"):
        return _fused(attention, *inputs, **options)
    if not isinstance(getattr(attention, "v_proj", None), nn.Module):
        raise UnsupportedModel(f"{path}: its values are made by no v_proj, so the parts of tokens are not known")
    found: dict[str, Tensor] = {}

    def leaf(_: Any, inputs: Any, output: Tensor) -> Tensor:
        found["values"] = output.detach().requires_grad_()
        return found["values"]

    with ExitStack() as hooks:
        hooks.callback(attention.v_proj.register_forward_hook(leaf).remove)
        hooks.callback(watch_context(model, tower, path, lambda context: found.update(context=context)).remove)
        attention(*inputs, **options)
    return found["values"], found["context"]


def _fused(
    attention: Any, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """The same for a module with ``in_proj_weight``: open_clip's layers, and SigLIP's pool (batch first)."""
    heads = getattr(attention, "num_heads", None) or attention.heads
    key, value = query if key is None else key, query if value is None else value
    biases = attention.in_proj_bias.chunk(3)
    made = zip((query, key, value), attention.in_proj_weight.chunk(3), biases, strict=True)
    asked, offered, values = (linear(*each).detach() for each in made)
    values.requires_grad_()
    query, key, value = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (asked, offered, values))
    return values, scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {name: _detached(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_detached(item) for item in value)
    return value
