"""From explanations to gains: which singular vectors an edit takes, and what each is multiplied by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

import torch
from torch import Tensor

from sith_hf.core.validation import finite_number
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.errors import InputError

# More than half of an explanation: the vector is then more about the concept than about all else together.
SHARE_THRESHOLD = 0.5

Key = tuple[int, int, int]


@dataclass(frozen=True)
class Gains:
    """Singular vectors with their gains and the reason of each; every other vector keeps a gain of 1.

    Attributes:
        gain: (layer, head, vector) to gain.
        reason: (layer, head, vector) to a few words on why it was chosen.
        spared: (layer, head, vector) to a few words on why a rule that would have taken the vector left it as it was;
            it then has no gain, or a milder one where the rule says so.
        unscored: vectors that a rule could not judge, because there was no score of them.
    """

    gain: Mapping[Key, float] = field(default_factory=lambda: MappingProxyType({}))
    reason: Mapping[Key, str] = field(default_factory=lambda: MappingProxyType({}))
    spared: Mapping[Key, str] = field(default_factory=lambda: MappingProxyType({}))
    unscored: frozenset[Key] = frozenset()

    def __len__(self) -> int:
        return len(self.gain)

    def then(self, other: Gains) -> Gains:
        """Both. Where both name a vector its gains multiply, so that suppressing twice suppresses."""
        gain = {key: self.gain.get(key, 1.0) * other.gain.get(key, 1.0) for key in [*self.gain, *other.gain]}
        reason = _joined(self.reason, other.reason, gain)
        spared = _joined(self.spared, other.spared, [*self.spared, *other.spared])
        return Gains(
            MappingProxyType(gain),
            MappingProxyType(reason),
            MappingProxyType(spared),
            self.unscored | other.unscored,
        )


def _joined(first: Mapping[Key, str], second: Mapping[Key, str], keys: Iterable[Key]) -> dict[Key, str]:
    return {key: "; ".join(words[key] for words in (first, second) if key in words) for key in keys}


def among(decomposition: Decomposition, layers: Iterable[int] | None, heads: Iterable[int] | None) -> Tensor:
    """The heads that a rule may choose from: a truth value for each of ``[L, H]``.

    Args:
        decomposition: what is chosen from.
        layers, heads: numbers as the decomposition has them, layers also from the last; all when None.

    Raises:
        InputError: a layer or head that is not there.
    """
    allowed = torch.zeros(len(decomposition.layers), decomposition.num_heads, dtype=torch.bool)
    numbers = decomposition.layers if layers is None else decomposition.resolve_layers(layers)
    columns = range(decomposition.num_heads) if heads is None else [decomposition.resolve_head(h) for h in heads]
    for number in numbers:
        allowed[decomposition.position(number), list(columns)] = True
    return allowed


def check_gain(gain: float) -> float:
    """``gain`` as a float. Raises InputError unless it is a finite number."""
    return finite_number(gain, "a gain (0 removes, 1 leaves, above 1 amplifies, -1 inverts)")


def by_concepts(
    decomposition: Decomposition,
    queries: Mapping[str, Tensor],
    gain: float,
    *,
    threshold: float = SHARE_THRESHOLD,
    near: float = NEAR,
    both_poles: bool = False,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
) -> Gains:
    """Gains for the vectors whose explanation speaks of some concepts.

    The rule: a pole's share is the part of its explanation's weight that lies on the named concepts and on
    concepts near them (:meth:`Decomposition.share`); a vector is chosen when the share of its stronger pole, or
    the mean over its poles with ``both_poles``, is at least ``threshold``. The default of one half takes a vector
    that is more about the concepts than about everything else together. A share, not a weight, because weights
    of explanations of low fidelity are small throughout. ``both_poles`` spares a vector whose other pole is
    about something else; it suits a query that covers a whole topic (all backgrounds), so that both poles of a
    vector of that topic are named.

    Args:
        decomposition: what to choose from.
        queries: concept to its text embedding, ``[P]``, not centred.
        gain: for every chosen vector.
        threshold: the least share, above 0 and at most 1.
        near: the least cosine of centred embeddings that counts as near.
        both_poles: judge a vector by the mean over its poles.
        layers, heads: choose only among these; among all of the decomposition when None.

    Raises:
        InputError: no concept, a gain that is not finite, or values out of range.
    """
    gain = check_gain(gain)
    if not queries:
        raise InputError("name at least one concept")
    if not 0 < finite_number(threshold, "threshold") <= 1:
        raise InputError(f"threshold is a share above 0 and at most 1; got {threshold}")
    share = share_of(decomposition, queries, near=near, both_poles=both_poles)
    allowed = among(decomposition, layers, heads).unsqueeze(-1)
    named = ", ".join(queries)
    chosen: dict[Key, float] = {}
    reasons: dict[Key, str] = {}
    # Rounding must not keep out a vector that is about nothing else, at a threshold of 1.
    for at, head, vector in torch.nonzero((share >= threshold * (1 - 1e-6)) & allowed).tolist():
        key = (decomposition.layers[at], head, vector)
        chosen[key] = gain
        reasons[key] = f"{named}: share {float(share[at, head, vector]):.2f}"
    return Gains(MappingProxyType(chosen), MappingProxyType(reasons))


def share_of(
    decomposition: Decomposition, queries: Mapping[str, Tensor], *, near: float = NEAR, both_poles: bool = False
) -> Tensor:
    """How much each vector speaks of any of some concepts, 0 to 1, ``[L, H, R]``: what :func:`by_concepts` compares.

    Args:
        decomposition: the vectors.
        queries, near, both_poles: as for :func:`by_concepts`.
    """
    share = decomposition.share(torch.stack([q.float() for q in queries.values()]), near)
    return share.mean(dim=-1) if both_poles else share.amax(dim=-1)


def by_name(
    decomposition: Decomposition,
    gain: float,
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    vectors: Iterable[int] | None = None,
) -> Gains:
    """Gains for vectors named outright: every combination of the given layers, heads and vectors.

    Args:
        decomposition: what to choose from.
        gain: for every chosen vector.
        layers, heads, vectors: numbers as the decomposition has them; all when None, but not all three None.

    Raises:
        InputError: nothing named, a number that is not in the decomposition, or a gain that is not finite.
    """
    gain = check_gain(gain)
    if layers is None and heads is None and vectors is None:
        raise InputError("name layers, heads or vectors")
    chosen: dict[Key, float] = {}
    # product() reads each iterable once, so that an iterator serves every layer.
    for layer, head, vector in product(
        decomposition.layers if layers is None else decomposition.resolve_layers(tuple(layers)),
        range(decomposition.num_heads) if heads is None else heads,
        range(decomposition.rank) if vectors is None else vectors,
    ):
        decomposition.explain(layer, head, vector)
        chosen[layer, head, vector] = gain
    return Gains(MappingProxyType(chosen), MappingProxyType(dict.fromkeys(chosen, "named outright")))
