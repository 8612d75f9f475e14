"""The map: a value for each head."""

from __future__ import annotations

from dataclasses import dataclass

from sith_hf.decomposition import Decomposition


@dataclass(frozen=True)
class MapView:
    """Values of the heads.

    Attributes:
        title: what the values are, with their unit.
        layers: the layer numbers, L.
        values: L rows of H values, 0 to 1 for the colours.
        labels: L rows of H texts, what a value says in words.
    """

    title: str
    layers: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    labels: tuple[tuple[str, ...], ...]


def energy_map(decomposition: Decomposition) -> MapView:
    """Return the share of each head's energy that is in vectors with words beyond chance."""
    found = decomposition.beyond_chance()
    share = decomposition.energy_share
    heard = share if found is None else share * found.any(-1)
    values = heard.sum(-1).tolist()
    return MapView(
        "energy beyond chance, % of the head",
        decomposition.layers,
        tuple(tuple(row) for row in values),
        tuple(tuple(f"{100 * x:.0f} %" for x in row) for row in values),
    )
