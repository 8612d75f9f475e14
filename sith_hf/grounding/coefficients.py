"""The coefficients of singular vectors on images: how much each vector writes, read during an ordinary forward pass.

With singular value s, read direction r and write direction w, the coefficient of a vector at a token is ::

    a = s r^T (sum over tokens t of attention_t x_t) = w^T B_h (z_h - constant_h)

(Method, sec. 8), where x_t is what the head reads, z_h the attention-weighted sum of its values, and B_h and the
constant those of :class:`sith_hf.towers.HeadFactors`. z_h is the input of the layer's output projection, so a hook
there reads the coefficients in every family, and with every implementation of attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from sith_hf.decomposition import Decomposition
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.towers import Tower, family_of

Vector = tuple[int, int, int]

CLASS, POOL, MEAN = "class token", "pool", "mean over tokens"


@dataclass(frozen=True, eq=False)
class LayerRows:
    """The vectors of one layer as linear readings of the contexts of its heads.

    Attributes:
        where: the token to read, as :func:`read_where` returns it.
        columns: ``[n]`` int64, the place of each vector in the result.
        weight: ``[n, D]`` float64, w^T B_h in the columns of its head, else 0.
        bias: ``[n]`` float64, minus the constant part.
    """

    where: str
    columns: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, context: Tensor) -> Tensor:
        """Return the coefficients ``[B, n]`` of contexts ``[B, T, D]``, float64 for those, else float32."""
        dtype = torch.float64 if context.dtype == torch.float64 else torch.float32
        context = context.detach().to(dtype)
        context = context.reshape(len(context), -1, context.shape[-1])  # a pool may have no axis of tokens
        at = context.mean(dim=1) if self.where == MEAN else context[:, 0]
        return nn.functional.linear(at, self.weight.to(at), self.bias.to(at))


@dataclass(eq=False)
class CoefficientReader:
    """Collects the coefficients of N vectors from forward passes (see :func:`reading_coefficients`).

    Attributes:
        vectors: the (layer, head, vector) of each column, N of them.
    """

    vectors: tuple[Vector, ...]
    _columns: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _found: dict[int, list[Tensor]] = field(default_factory=dict, repr=False)

    def add(self, layer: int, rows: Callable[[Tensor], Tensor], context: Tensor) -> None:
        """Read the vectors of one layer from the contexts of its heads, ``[B, T, D]``."""
        self._found.setdefault(layer, []).append(rows(context).cpu())

    def take(self) -> Tensor:
        """Return the coefficients of the images since the last call, and forget them.

        Returns:
            ``[B, N]`` on the CPU: float32, or float64 for a model in float64. Rows are images in the order of the
            forward passes, columns are :attr:`vectors`.

        Raises:
            InputError: no forward pass ran the layers of all vectors since the last call.
        """
        found = {layer: torch.cat(parts) for layer, parts in self._found.items()}
        self._found.clear()
        if found.keys() != self._columns.keys():
            missing = sorted(self._columns.keys() - found.keys())
            raise InputError(
                f"no image passed through layers {missing} since the last coefficients were taken: embed images inside "
                "reading_coefficients before each take"
            )
        first = next(iter(found.values()))
        values = first.new_empty(len(first), len(self.vectors))
        for layer, columns in self._columns.items():
            values[:, columns] = found[layer]
        return values


def read_where(model: Any, tower: Tower, layer: int) -> str:
    """Return the token at which a layer's coefficients are read.

    ``"class token"`` where the vision tower has one, which alone reaches the embedding; ``"pool"`` for the one token of
    an attention-pooling head; ``"mean over tokens"`` for the encoder of a tower with neither, such as SigLIP's.
    """
    if tower.layers[layer].title:
        return POOL
    return MEAN if family_of(model).class_token(model) is None else CLASS


@contextmanager
def reading_coefficients(
    model: Any, tower: Tower, decomposition: Decomposition, vectors: Sequence[Vector] | None = None
) -> Iterator[CoefficientReader]:
    """Read the coefficients of singular vectors while a model embeds images.

    Example::

        with reading_coefficients(model, tower, decomposition) as reader:
            embeddings = variant.embed(pixels)      # one ordinary forward pass
            values = reader.take()                  # [B, N]

    A coefficient is a = s r^T (sum over tokens of attention times x), at the token of :func:`read_where`; x is the
    standardised residual stream with folding, and the output of the norm without. The model's outputs do not change.

    Args:
        model: a model with the tower, in evaluation mode, on any device and in any float dtype.
        tower: the vision tower that was decomposed, of this model.
        decomposition: its singular vectors.
        vectors: the (layer, head, vector) of N of them; when None all, by layer, head and vector: N = L H R.

    Raises:
        InputError: a decomposition of a text tower, no vectors, or one that is not there.
        BaseMismatch: the decomposition was made from other weights.
    """
    check_vision(tower)
    if decomposition.tower != tower.kind:
        raise BaseMismatch(f"this decomposition is of the {decomposition.tower} tower, not of the {tower.kind} tower")
    tower.check(decomposition.base, [layer for layer in decomposition.layers if layer < len(tower.layers)])
    _, heads, rank = decomposition.singular_values.shape
    if vectors is None:
        vectors = list(product(decomposition.layers, range(heads), range(rank)))
    if not vectors:
        raise InputError("no vectors to read: name at least one (layer, head, vector)")
    rows = layer_rows(model, tower, decomposition, vectors)
    reader = CoefficientReader(tuple(vectors), {layer: row.columns for layer, row in rows.items()})
    module, _ = family_of(model).locate(model, tower.kind)
    paths = family_of(model).outputs(module)
    with ExitStack() as hooks:
        for layer, row in rows.items():
            add = partial(reader.add, layer, row)
            hooks.callback(watch_context(model, module, paths[layer], add).remove)
        yield reader


def check_vision(tower: Tower) -> None:
    """Raise InputError for a text tower, whose vectors no image drives."""
    if tower.kind != "vision":
        raise InputError(
            "images drive the vectors of a vision tower only, and this is a text tower: decompose the vision tower "
            '(tower="vision", --tower vision)'
        )


def layer_rows(
    model: Any, tower: Tower, decomposition: Decomposition, vectors: Sequence[Vector]
) -> dict[int, LayerRows]:
    """Return how to read vectors from the contexts of heads, by layer.

    Raises:
        InputError: a decomposition that does not record how it folds, or a vector that is not there.
    """
    fold, centre = decomposition.settings.get("fold"), decomposition.settings.get("centre")
    if not isinstance(fold, bool) or not isinstance(centre, bool):
        raise InputError("the decomposition does not record fold and centre: decompose again")
    places = [decomposition.place(*vector) for vector in vectors]
    found = {}
    for layer in sorted({vector[0] for vector in vectors}):
        factors = tower.layers[layer].factors(tower.num_heads, fold=fold, centre=centre)
        here = [number for number, vector in enumerate(vectors) if vector[0] == layer]
        weight = torch.zeros(len(here), tower.num_heads, tower.head_size, dtype=torch.float64)
        bias = torch.zeros(len(here), dtype=torch.float64)
        for row, number in enumerate(here):
            head = places[number][1]
            weight[row, head] = decomposition.write[places[number]].double() @ factors.write[head].cpu()
            bias[row] = -weight[row, head] @ factors.constant[head].cpu()
        found[layer] = LayerRows(read_where(model, tower, layer), torch.tensor(here), weight.flatten(1), bias)
    return found


def watch_context(model: Any, tower: Any, path: str, found: Callable[[Tensor], None]) -> Any:
    """Call ``found`` with what an output projection reads, ``[B, T, D]``, in each forward pass; return the handle."""
    parent = tower.get_submodule(path.rpartition(".")[0])
    swapped = family_of(model).tokens_first
    if not isinstance(parent, nn.MultiheadAttention):
        return tower.get_submodule(path).register_forward_pre_hook(
            lambda module, inputs: found(inputs[0].transpose(0, 1) if swapped else inputs[0])
        )

    # SigLIP's pooling head uses the weights of its output projection, and does not call it.
    def attend(module: nn.MultiheadAttention, inputs: Any, options: Any) -> None:
        found(_context(module, *inputs, **options))

    return parent.register_forward_pre_hook(attend, with_kwargs=True)


def _context(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    attn_mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return what the output projection of torch's attention reads, ``[B, T, D]``: the same attention without it."""
    query, key, value = (part.transpose(0, 1) if attention.batch_first else part for part in (query, key, value))
    same = torch.eye(attention.embed_dim, dtype=query.dtype, device=query.device)
    found, _ = nn.functional.multi_head_attention_forward(
        query, key, value, attention.embed_dim, attention.num_heads, attention.in_proj_weight, attention.in_proj_bias,
        attention.bias_k, attention.bias_v, attention.add_zero_attn, 0.0, same, None,
        training=False, key_padding_mask=key_padding_mask, need_weights=False, attn_mask=attn_mask,
    )  # fmt: skip
    return found.transpose(0, 1)
