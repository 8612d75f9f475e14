"""Gains for vectors given by the concepts of their explanations, or by number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

import torch
from torch import Tensor

from sith_hf.core.validation import finite_number
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import ALL, Gains, Selection, VectorKey, check_gain

# Half of an explanation: such a vector is at least as much about the concepts as about everything else.
SHARE_THRESHOLD = 0.5


def by_concepts(
    decomposition: Decomposition,
    queries: Mapping[str, Tensor],
    gain: float,
    *,
    threshold: float = SHARE_THRESHOLD,
    near: float = NEAR,
    select: Selection = ALL,
) -> Gains:
    """Give one gain to the vectors whose explanation is about some concepts.

    The share of a pole is the part of its explanation's weight that lies on the given concepts and on similar ones
    (:meth:`Decomposition.share`). A vector is chosen if the share of its stronger pole, or the mean over its poles
    with ``select.both_poles``, is at least ``threshold``. Shares are compared, not weights, because all weights of an
    explanation of low fidelity are small. ``both_poles`` skips vectors whose other pole is about something else. It
    needs queries that cover a whole topic (all backgrounds), so that they match both poles of a vector.

    Args:
        decomposition: the vectors to choose from.
        queries: concept to its text embedding, ``[P]``, not centred.
        gain: the gain of every chosen vector.
        threshold: the minimum share, above 0 and at most 1.
        near: the minimum cosine of centred embeddings that counts as similar.
        select: which vectors may be chosen.

    Raises:
        InputError: no concept, a gain that is not finite, or values out of range.
    """
    gain = check_gain(gain)
    if not queries:
        raise InputError("name at least one concept")
    if not 0 < finite_number(threshold, "threshold") <= 1:
        raise InputError(f"threshold must be a share above 0 and at most 1; got {threshold}")
    share = share_of(decomposition, queries, near=near, select=select)
    named = ", ".join(queries)
    # At a threshold of 1, rounding must not exclude a vector that is about nothing else.
    reason = {
        key: f"{named}: share {float(share[place]):.2f}"
        for key, place in select.vectors(decomposition, share >= threshold * (1 - 1e-6))
    }
    return Gains(dict.fromkeys(reason, gain), reason)


def by_name(
    decomposition: Decomposition,
    gain: float,
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    vectors: Iterable[int] | None = None,
) -> Gains:
    """Give one gain to every combination of the given layers, heads and vectors.

    Args:
        decomposition: the vectors to choose from.
        gain: the gain of every chosen vector.
        layers, heads, vectors: numbers in the decomposition; all when None. At least one must be given.

    Raises:
        InputError: nothing given, a number that is not in the decomposition, or a gain that is not finite.
    """
    gain = check_gain(gain)
    if layers is None and heads is None and vectors is None:
        raise InputError("name layers, heads or vectors to edit (--layers, --heads, --vectors on the command line)")
    chosen: dict[VectorKey, float] = {}
    # product() reads each iterable once, so an iterator serves every layer.
    for layer, head, vector in product(
        decomposition.layers if layers is None else decomposition.resolve_layers(tuple(layers)),
        range(decomposition.num_heads) if heads is None else heads,
        range(decomposition.rank) if vectors is None else vectors,
    ):
        decomposition.explain(layer, head, vector)
        chosen[layer, head, vector] = gain
    return Gains(chosen, dict.fromkeys(chosen, "named outright"))


def share_of(
    decomposition: Decomposition, queries: Mapping[str, Tensor], *, near: float = NEAR, select: Selection = ALL
) -> Tensor:
    """Return the share of each vector that is about any of some concepts, 0 to 1, ``[L, H, R]``.

    Arguments as for :func:`by_concepts`; of ``select`` only ``both_poles`` matters.
    """
    return select.of_vectors(decomposition.share(torch.stack([q.float() for q in queries.values()]), near))
