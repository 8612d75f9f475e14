"""Gains for vectors given by the concepts of their explanations, or by number."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from sith_hf.core.ranges import Numbers
from sith_hf.core.validation import finite_number
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import ALL, Evidence, Gains, Selection, VectorKey, check_gain, direction_of

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
    # At a threshold of 1, rounding must not exclude a vector that is about nothing else.
    chosen = dict(select.vectors(decomposition, share >= threshold * (1 - 1e-6)))
    evidence = _evidence(decomposition, queries, near, chosen, select.both_poles)
    return Gains(
        dict.fromkeys(chosen, gain),
        {key: _reason(item) for key, item in evidence.items()},
        evidence={key: (item,) for key, item in evidence.items()},
        named={key: dict.fromkeys(queries, direction_of(gain)) for key in chosen},
    )


def by_name(
    decomposition: Decomposition,
    gain: float,
    *,
    layers: Numbers | None = None,
    heads: Numbers | None = None,
    vectors: Numbers | None = None,
) -> Gains:
    """Give one gain to every combination of the given layers, heads and vectors.

    Args:
        decomposition: the vectors to choose from.
        gain: the gain of every chosen vector.
        layers, heads, vectors: numbers in the decomposition, negative ones from the last, or texts such as ``"-4:"``;
            all when None. At least one must be given.

    Raises:
        InputError: nothing given, a number that is not in the decomposition, or a gain that is not finite.
    """
    gain = check_gain(gain)
    if layers is None and heads is None and vectors is None:
        raise InputError("name layers, heads or vectors to edit (--layers, --heads, --vectors on the command line)")
    chosen: dict[VectorKey, float] = {}
    for layer, head, vector in product(
        decomposition.resolve_layers(layers),
        decomposition.resolve_heads(heads),
        decomposition.resolve_vectors(vectors),
    ):
        chosen[layer, head, vector] = gain
    return Gains(chosen, dict.fromkeys(chosen, "named outright"))


def share_of(
    decomposition: Decomposition, queries: Mapping[str, Tensor], *, near: float = NEAR, select: Selection = ALL
) -> Tensor:
    """Return the share of each vector that is about any of some concepts, 0 to 1, ``[L, H, R]``.

    Arguments as for :func:`by_concepts`; of ``select`` only ``both_poles`` matters.
    """
    return select.of_vectors(decomposition.share(torch.stack([q.float() for q in queries.values()]), near))


def _evidence(
    decomposition: Decomposition,
    queries: Mapping[str, Tensor],
    near: float,
    chosen: Mapping[VectorKey, tuple[int, int, int]],
    both_poles: bool,
) -> dict[VectorKey, Evidence]:
    """Return what counted in the share of each chosen vector."""
    nearness = decomposition.nearness(torch.stack([query.float() for query in queries.values()]), near).tolist()
    named, about = {text.casefold() for text in queries}, ", ".join(queries)
    found = {}
    for key, place in chosen.items():
        parts = []
        for concepts, weights in zip(decomposition.concept[place], decomposition.weight[place], strict=True):
            total = float(weights.sum()) or 1.0
            pairs = zip(concepts.tolist(), weights.tolist(), strict=True)
            parts.append({i: weight / total * nearness[i] for i, weight in pairs if i >= 0 and nearness[i] > 0})
        counted = parts if both_poles else [max(parts, key=lambda part: sum(part.values()))]
        pole = None if both_poles else decomposition.poles[parts.index(counted[0])]
        sums: dict[int, float] = {}
        for i, share in (item for part in counted for item in part.items()):
            sums[i] = sums.get(i, 0.0) + share / len(counted)
        others = [
            (decomposition.texts[i], share, nearness[i])
            for i, share in sums.items()
            if share > 0 and decomposition.texts[i].casefold() not in named
        ]
        share = sum(sums.values())
        found[key] = Evidence(about, share, pole=pole, near=tuple(sorted(others, key=lambda item: (-item[1], item[0]))))
    return found


def _reason(evidence: Evidence) -> str:
    words = f"{evidence.about}: share {evidence.share:.2f}"
    near = ", ".join(f"{text} {share:.2f}" for text, share, _ in evidence.near)
    return f"{words} (near: {near})" if near else words
