"""Gains for the vectors whose explanation carries named concepts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sith_hf.core.validation import finite_number
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import Gains, check_gain
from sith_hf.gains.selection import ALL, Selection

# More than half of an explanation: the vector is then more about the concept than about all else together.
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
    """Gains for the vectors whose explanation is about some concepts.

    The share of a pole is the part of its explanation's weight that lies on the named concepts and on concepts near
    them (:meth:`Decomposition.share`). A vector is chosen if the share of its stronger pole, or the mean over its poles
    with ``select.both_poles``, is at least ``threshold``. It is a share and not a weight, because all weights of an
    explanation of low fidelity are small. ``both_poles`` leaves out vectors whose other pole is about something else:
    use it with a query that covers a whole topic (all backgrounds), so that it names both poles of such a vector.

    Args:
        decomposition: what to choose from.
        queries: concept to its text embedding, ``[P]``, not centred.
        gain: for every chosen vector.
        threshold: the least share, above 0 and at most 1.
        near: the least cosine of centred embeddings that counts as near.
        select: what to choose among.

    Raises:
        InputError: no concept, a gain that is not finite, or values out of range.
    """
    gain = check_gain(gain)
    if not queries:
        raise InputError("name at least one concept")
    if not 0 < finite_number(threshold, "threshold") <= 1:
        raise InputError(f"threshold is a share above 0 and at most 1; got {threshold}")
    share = share_of(decomposition, queries, near=near, select=select)
    named = ", ".join(queries)
    # Rounding must not keep out a vector that is about nothing else, at a threshold of 1.
    reason = {
        key: f"{named}: share {float(share[place]):.2f}"
        for key, place in select.vectors(decomposition, share >= threshold * (1 - 1e-6))
    }
    return Gains(dict.fromkeys(reason, gain), reason)


def share_of(
    decomposition: Decomposition,
    queries: Mapping[str, Tensor],
    *,
    near: float = NEAR,
    select: Selection = ALL,
) -> Tensor:
    """How much of each vector is about any of some concepts, 0 to 1, ``[L, H, R]``: what :func:`by_concepts` compares.

    Args:
        decomposition: the vectors; all of them get a share.
        queries, near: as for :func:`by_concepts`.
        select: whether the mean or the stronger pole counts.
    """
    return select.of_vectors(decomposition.share(torch.stack([q.float() for q in queries.values()]), near))
