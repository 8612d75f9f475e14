"""Baselines of an edit, of the same size: random vectors with the same gains, and whole heads removed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, product

import torch

from sith_hf.core.validation import whole_number
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import Gains, VectorKey

# The share of an edit's energy. Fewer heads leave most of it out; the heads of an edit are often all heads there are.
WHOLE_HEADS_SHARE = 0.5


def random_vectors(decomposition: Decomposition, gains: Gains, seed: int) -> Gains:
    """Draw random vectors: as many, of the same layers, with the same gains.

    The draw may contain vectors of the edit, but is never the edit itself.

    Args:
        decomposition: the one that ``gains`` were chosen from.
        gains: the edit.
        seed: the seed of the draw.

    Raises:
        InputError: the edit is empty, has a vector that is not in the decomposition, or gives every vector of its
            layers the same gain, so there is no other choice.
    """
    whole_number(seed, "a seed", least=0)
    layers: dict[int, list[VectorKey]] = {}
    for key in sorted(gains.gain):
        decomposition.place(*key)
        layers.setdefault(key[0], []).append(key)
    pool = list(product(range(decomposition.num_heads), range(decomposition.rank)))
    if all(len(keys) == len(pool) and len({gains.gain[key] for key in keys}) == 1 for keys in layers.values()):
        raise InputError(
            "there are no other vectors to draw: the edit is empty, or gives all vectors of its layers the same gain"
        )
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn: dict[VectorKey, float] = {}
        for layer, keys in layers.items():
            order = torch.randperm(len(pool), generator=generator)[: len(keys)].tolist()
            drawn |= {(layer, *pool[i]): gains.gain[key] for i, key in zip(order, keys, strict=True)}
        if drawn != dict(gains.gain):
            drawn = dict(sorted(drawn.items()))
            return Gains(drawn, dict.fromkeys(drawn, f"drawn at random, seed {seed}"))


def whole_heads(decomposition: Decomposition, gains: Gains) -> Gains:
    """Remove the fewest heads that hold at least half of an edit.

    A head holds ``sum (1 - g_i)^2 s_i^2`` over its edited vectors: the energy that the edit takes from it. The heads
    that hold most come first, ties by layer and head. The constant output of a head stays, as in any edit. If the
    rank is below the head size, the R leading vectors of a head are removed.

    Args:
        decomposition: the one that ``gains`` were chosen from.
        gains: the edit.

    Raises:
        InputError: the edit changes no vector, or has one that is not in the decomposition.
    """
    held: dict[tuple[int, int], float] = {}
    for (layer, head, vector), gain in sorted(gains.gain.items()):
        value = decomposition.explain(layer, head, vector).singular_value
        held[layer, head] = held.get((layer, head), 0.0) + (1 - gain) ** 2 * value**2
    total = sum(held.values())
    if total <= 0:
        raise InputError("the edit changes no vector; choose an edit with heads to remove")
    order = sorted(held, key=lambda where: (-held[where], where))
    enough = WHOLE_HEADS_SHARE * total * (1 - 1e-9)
    heads = 1 + sum(so_far < enough for so_far in accumulate(held[where] for where in order))
    removed = {
        (layer, head, vector): f"whole head, which holds {held[layer, head] / total:.0%} of the edit"
        for layer, head in sorted(order[:heads])
        for vector in range(decomposition.rank)
    }
    return Gains(dict.fromkeys(removed, 0.0), removed)


def with_baselines(
    decomposition: Decomposition, gains: Gains, *, seeds: Iterable[int] = (0, 1, 2), whole: bool = True
) -> dict[str, Gains]:
    """Return the edit and its baselines by name: ``edited``, ``random 0``, ``random 1``, ..., ``whole heads``.

    Args:
        decomposition, gains: as for :func:`whole_heads`.
        seeds: one draw of random vectors for each.
        whole: whether to include whole heads.

    Raises:
        InputError: as for :func:`random_vectors` and :func:`whole_heads`.
    """
    chosen = {"edited": gains}
    chosen |= {f"random {seed}": random_vectors(decomposition, gains, seed) for seed in seeds}
    return chosen | ({"whole heads": whole_heads(decomposition, gains)} if whole else {})
