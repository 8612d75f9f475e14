"""Weaken an edit until its estimated drift is within a limit, and keep as much of its effect as possible.

The drift is estimated from the weights (:mod:`sith_hf.gains.drift`), without images.

Let d_i be the drift of the full edit of vector i, t_i its share of the topic (0 to 1) and u_i the part of its edit that
is applied. The edit removes sum t_i d_i u_i of the topic, in units of drift, and moves embeddings by
sum d_i u_i^2. The best u within a limit has a closed form (the problem is convex; set the derivative to zero)::

    u_i = min(1, c * t_i)        with the c that reaches the limit

Vectors purely about the topic are removed first and whole, mixed ones in part. With ``whole=True`` vectors are taken
one by one, the purest first, until the limit is reached; the last one in part. This edits fewer vectors and removes
less of the topic.

On the embedded checkpoint, for vectors of the last two layers with a share of backgrounds of at least 0.2
(``python benchmarks/drift.py``; worst and mean of eight groups in %, without an edit 22 and 67; the full edit moves
embeddings by 0.120 and gives 54 and 80)::

    limit                  0.01   0.02   0.05   0.10
    in parts    measured  0.009  0.018  0.046  0.085
                groups    36 76  44 79  54 83  69 87
    one by one  measured  0.007  0.021  0.045  0.080
                groups    22 75  23 79  27 80  77 87
"""

from __future__ import annotations

from itertools import accumulate

from torch import Tensor

from sith_hf.core.validation import finite_number
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.drift import drift_of
from sith_hf.gains.gains import Gains, VectorKey

# Smaller parts of an edit are left out.
SMALLEST_CHANGE = 1e-3


def budgeted(
    decomposition: Decomposition, gains: Gains, share: Tensor, drift: Tensor, limit: float, *, whole: bool = False
) -> Gains:
    """Weaken ``gains`` until the estimated drift of embeddings is at most ``limit``.

    Each gain g becomes 1 + u (g - 1) with u from 0 to 1. An edit within the limit does not change.

    Args:
        decomposition: the one that ``gains`` were chosen from.
        gains: the edit, by any rule.
        share: ``[L, H, R]``, how much each vector is about the topic, 0 to 1: :func:`sith_hf.gains.share_of`, or
            :func:`sith_hf.gains.topic_shares`. Vectors with a share of 0 stay unchanged.
        drift: ``[L, H, R]``, from :func:`sith_hf.gains.drift_shares`.
        limit: the largest estimated mean of 1 - cos between embeddings before and after.
        whole: take vectors one by one rather than in parts.

    Raises:
        InputError: a limit that is negative or not finite, or tensors of another shape.
    """
    most = finite_number(limit, "limit, a mean of 1 - cos,")
    if most < 0:
        raise InputError(f"limit must be at least 0; got {limit}")
    full = drift_of(decomposition, drift, gains)
    if share.shape != drift.shape or not bool(((share >= 0) & (share <= 1 + 1e-4)).all()):
        raise InputError(f"share must have shape {list(drift.shape)} and values from 0 to 1")
    if full <= most:
        return gains

    places = {key: (decomposition.position(key[0]), *key[1:]) for key in gains.gain}
    # Take the purest first, ties by layer, head and vector.
    keys = sorted(places, key=lambda key: (-float(share[places[key]]), key))
    shares = [min(1.0, float(share[places[key]])) for key in keys]
    costs = [(1 - gains.gain[key]) ** 2 * float(drift[places[key]]) for key in keys]
    amounts = (_one_by_one if whole else _in_parts)(shares, costs, most)

    gain: dict[VectorKey, float] = {}
    reason: dict[VectorKey, str] = {}
    for key, amount in sorted(zip(keys, amounts, strict=True)):
        if amount < SMALLEST_CHANGE:
            continue
        gain[key] = gains.gain[key] if amount == 1 else 1 + amount * (gains.gain[key] - 1)
        part = f"{amount:.0%} of it within a drift of {most:g}"
        reason[key] = f"{gains.reason[key]}; {part}" if gains.reason.get(key) else part
    return Gains(gain, reason, gains.protected, gains.unscored, named=gains.named)


def _in_parts(shares: list[float], costs: list[float], limit: float) -> list[float]:
    """Return u = min(1, c t) that reaches the limit exactly, for descending shares whose cost exceeds the limit."""
    whole = [0.0, *accumulate(costs)]
    rest = [sum(t * t * d for t, d in zip(shares[k:], costs[k:], strict=True)) for k in range(len(costs) + 1)]
    for k, share in enumerate(shares):
        if rest[k] <= 0:
            # Only vectors that are not about the topic are left, and the drift is below the limit.
            return [1.0] * k + [0.0] * (len(shares) - k)
        c = (max(0.0, limit - whole[k]) / rest[k]) ** 0.5
        if c * share <= 1:
            return [1.0] * k + [c * t for t in shares[k:]]
    return [1.0] * len(shares)


def _one_by_one(shares: list[float], costs: list[float], limit: float) -> list[float]:
    """Take whole vectors in order while they fit, then one in part."""
    amounts, left = [0.0] * len(costs), limit
    for k, (share, cost) in enumerate(zip(shares, costs, strict=True)):
        if share <= 0:
            break
        if cost > left:
            amounts[k] = (left / cost) ** 0.5
            break
        amounts[k], left = 1.0, left - cost
    return amounts
