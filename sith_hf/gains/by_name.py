"""Gains for vectors named by number."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import Gains, check_gain
from sith_hf.gains.selection import VectorKey


def by_name(
    decomposition: Decomposition,
    gain: float,
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    vectors: Iterable[int] | None = None,
) -> Gains:
    """Gains for every combination of the given layers, heads and vectors.

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
    chosen: dict[VectorKey, float] = {}
    # product() reads each iterable once, so that an iterator serves every layer.
    for layer, head, vector in product(
        decomposition.layers if layers is None else decomposition.resolve_layers(tuple(layers)),
        range(decomposition.num_heads) if heads is None else heads,
        range(decomposition.rank) if vectors is None else vectors,
    ):
        decomposition.explain(layer, head, vector)
        chosen[layer, head, vector] = gain
    return Gains(chosen, dict.fromkeys(chosen, "named outright"))
