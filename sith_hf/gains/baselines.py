"""What an edit is compared with: random vectors with the same gains, and whole heads removed.

Both are made from the edit, so that they are as large.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sith_hf.core.validation import whole_number
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import Gains
from sith_hf.gains.selection import VectorKey

SEEDS = (0, 1, 2)

# Of an edit's energy: fewer heads would leave most of it out, and all heads that it touches are often all there are.
WHOLE_HEADS_SHARE = 0.5


def random_vectors(decomposition: Decomposition, gains: Gains, seed: int, *, alike: bool = False) -> Gains:
    """As many vectors of the same layers with the same gains, drawn at random.

    The draw may contain vectors of the edit by chance, but is never the edit itself.

    Args:
        decomposition: what ``gains`` were chosen from.
        gains: the edit.
        seed: another seed is another draw.
        alike: keep each vector's number and draw its head only. This is stricter: the vectors are about as strong as
            those of the edit, which tend to be among the stronger ones of their heads.

    Raises:
        InputError: no vector is edited, one that is not in the decomposition, or no other choice is possible (every
            vector of these layers has the same gain).
    """
    whole_number(seed, "a seed", least=0)
    groups: dict[tuple[int, ...], list[VectorKey]] = {}
    for key in sorted(gains.gain):
        decomposition.explain(*key)
        groups.setdefault((key[0], key[2]) if alike else (key[0],), []).append(key)
    pools = {group: _pool(decomposition, group) for group in groups}
    fixed = [len(keys) == len(pools[g]) and len({gains.gain[k] for k in keys}) == 1 for g, keys in groups.items()]
    if all(fixed):
        raise InputError(
            "there are no other vectors to draw: the edit is empty, or gives all vectors of its layers the same gain"
        )
    generator = torch.Generator().manual_seed(seed)
    while True:
        drawn: dict[VectorKey, float] = {}
        for group, keys in groups.items():
            order = torch.randperm(len(pools[group]), generator=generator)[: len(keys)].tolist()
            drawn |= {pools[group][i]: gains.gain[key] for i, key in zip(order, keys, strict=True)}
        if drawn != dict(gains.gain):
            break
    drawn = dict(sorted(drawn.items()))
    return Gains(drawn, dict.fromkeys(drawn, f"drawn at random, seed {seed}"))


def _pool(decomposition: Decomposition, group: tuple[int, ...]) -> list[VectorKey]:
    vectors = range(decomposition.rank) if len(group) == 1 else (group[1],)
    return [(group[0], head, vector) for head in range(decomposition.num_heads) for vector in vectors]


def whole_heads(decomposition: Decomposition, gains: Gains, heads: int | None = None) -> Gains:
    """The heads that hold most of an edit, removed whole.

    A head holds ``sum (1 - g_i)^2 s_i^2`` of the edit over its edited vectors: the energy that the edit takes from it.
    Heads are removed in this order, equals by layer and head. Constant outputs of heads stay, as in any edit. If the
    rank is below the head size, the R leading vectors of a head are removed.

    Args:
        decomposition: what ``gains`` were chosen from.
        gains: the edit.
        heads: how many; as few as hold half of the edit when None. No more than the edit touches.

    Raises:
        InputError: no vector is edited, one that is not in the decomposition, or fewer than one head.
    """
    held: dict[tuple[int, int], float] = {}
    for (layer, head, vector), gain in sorted(gains.gain.items()):
        value = decomposition.explain(layer, head, vector).singular_value
        held[layer, head] = held.get((layer, head), 0.0) + (1 - gain) ** 2 * value**2
    total = sum(held.values())
    if total <= 0:
        raise InputError("the edit changes no vector, so no head holds any of it")
    order = sorted((where for where in held if held[where] > 0), key=lambda where: (-held[where], where))
    if heads is None:
        heads = next(
            n
            for n in range(1, len(order) + 1)
            if sum(held[w] for w in order[:n]) >= WHOLE_HEADS_SHARE * total * (1 - 1e-9)
        )
    chosen = order[: whole_number(heads, "heads", least=1)]
    removed = {
        (layer, head, vector): f"whole head, which holds {held[layer, head] / total:.0%} of the edit"
        for layer, head in sorted(chosen)
        for vector in range(decomposition.rank)
    }
    return Gains(dict.fromkeys(removed, 0.0), removed)


def with_baselines(
    decomposition: Decomposition,
    gains: Gains,
    *,
    seeds: Iterable[int] = SEEDS,
    whole: bool = True,
    heads: int | None = None,
) -> dict[str, Gains]:
    """The edit and its baselines by name: ``edited``, ``random 0``, ``random 1``, ..., ``whole heads``.

    Args:
        decomposition, gains, heads: as for :func:`whole_heads`.
        seeds: one draw of random vectors for each.
        whole: include whole heads.

    Raises:
        InputError: what :func:`random_vectors` and :func:`whole_heads` refuse.
    """
    chosen = {"edited": gains}
    chosen |= {f"random {seed}": random_vectors(decomposition, gains, seed) for seed in seeds}
    if whole:
        chosen["whole heads"] = whole_heads(decomposition, gains, heads)
    return chosen
