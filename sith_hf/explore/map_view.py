"""The map: a value for each head, as colours, texts and a legend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.decomposition import Decomposition
from sith_hf.explore.html import percent
from sith_hf.towers import layer_title


@dataclass(frozen=True)
class Cell:
    """A head in the map.

    Attributes:
        layer, head: its numbers.
        colour: 0 to 1, its value relative to the largest in the map.
        text: the value, as short as possible.
        label: the place and the value in words.
    """

    layer: int
    head: int
    colour: float
    text: str
    label: str


@dataclass(frozen=True)
class MapView:
    """Values of L x H heads.

    Attributes:
        title: what the values are.
        note: how to read them, in one sentence.
        least, most: the two ends of the legend, with their unit.
        layers: the titles of the layers.
        rows: L rows of H heads.
        problem: why there are no values; empty if there are.
    """

    title: str
    note: str
    least: str
    most: str
    layers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    problem: str = ""


def energy_map(decomposition: Decomposition) -> MapView:
    """Return the share of each head's energy that is in vectors with words beyond chance, in percent.

    Where that is not known, return the energy of each head relative to the strongest one.
    """
    values = decomposition.energy_beyond_chance
    if values is None:
        values = decomposition.energy.double() / decomposition.energy.double().max().clamp(min=_TINY)
        note = (
            "no words explain these vectors"
            if not decomposition.has_words
            else "this decomposition has no p-values, so its words are not compared with chance"
        )
        return _view(
            decomposition, values, "Energy of each head, % of the strongest", f"Shown because {note}.", "of the energy"
        )
    note = "The share of a head's energy in vectors whose words are better than chance."
    if not bool(values.any()):
        note = "No vector has words that are better than chance."
    return _view(decomposition, values, "Energy beyond chance, % of the head", note, "of its energy is beyond chance")


def concept_map(decomposition: Decomposition, concept: str, embedding: Tensor) -> MapView:
    """Return how much of each head's energy goes with words about a concept, in percent.

    A vector counts with the share of its words that are about the concept, of the pole that has more of them. Poles
    whose words are no better than chance do not count.

    Args:
        decomposition: the vectors.
        concept: its name.
        embedding: ``[P]``, of the concept, not centred.

    Raises:
        InputError: as for :meth:`sith_hf.decomposition.Decomposition.share`.
    """
    share, found = decomposition.share(embedding.reshape(1, -1).float()).double(), decomposition.beyond_chance()
    heard = share if found is None else share * found
    values = (decomposition.energy_share.double() * heard.amax(-1)).sum(-1)
    title = f"Energy in words about {concept}, % of the head"
    note = f"Each vector's energy, times the share of its words that are about {concept} or a similar concept."
    if not bool(values.any()):
        note = f"No vector has words beyond chance about {concept}."
    return _view(decomposition, values, title, note, f"of its energy is in words about {concept}")


def edit_map(decomposition: Decomposition, gain: Mapping[tuple[int, int, int], float]) -> MapView:
    """Return how many vectors of each head an edit changes, coloured by the energy that it takes or adds.

    Args:
        decomposition: the vectors.
        gain: (layer, head, vector) to gain.
    """
    shape = decomposition.singular_values.shape
    change = torch.zeros(shape, dtype=torch.float64)
    for key, value in gain.items():
        change[decomposition.place(*key)] = value - 1
    energy, count = (decomposition.energy_share.double() * change**2).sum(-1), (change != 0).sum(-1)
    note = "Numbers: vectors changed. Colours: the energy that the edit takes or adds, % of the head."
    if not bool(count.any()):
        note = "The basket of the tab Edit changes no vector yet: add some with Add to edit."
    texts = [[str(n) if n else "" for n in row] for row in count.tolist()]
    said = f"of {shape[2]} vectors changed, %s of its energy"
    labels = [
        [f"{n} {said % percent(e)}" for n, e in zip(counts, energies, strict=True)]
        for counts, energies in zip(count.tolist(), energy.tolist(), strict=True)
    ]
    return _cells(decomposition, energy, "Vectors that the edit changes", note, texts, labels)


def unknown_map(decomposition: Decomposition, title: str, problem: str, note: str = "") -> MapView:
    """Return a map without values, which says why: something is wrong, or is still to be done."""
    blank = [[""] * decomposition.num_heads for _ in decomposition.layers]
    values = torch.zeros(len(blank), decomposition.num_heads, dtype=torch.float64)
    return _cells(decomposition, values, title, note, blank, blank, problem)


_TINY = torch.finfo(torch.float64).tiny


def _view(decomposition: Decomposition, values: Tensor, title: str, note: str, said: str) -> MapView:
    shown = [[percent(value) for value in row] for row in values.tolist()]
    texts = [[text.removesuffix(" %") for text in row] for row in shown]
    return _cells(decomposition, values, title, note, texts, [[f"{text} {said}" for text in row] for row in shown])


def _cells(
    decomposition: Decomposition,
    values: Tensor,
    title: str,
    note: str,
    texts: list[list[str]],
    labels: list[list[str]],
    problem: str = "",
) -> MapView:
    most = float(values.max())
    colours = (values / max(most, _TINY)).clamp(0, 1).tolist()
    layers = tuple(str(layer_title(layer, decomposition.base.settings)) for layer in decomposition.layers)
    rows = tuple(
        tuple(
            Cell(layer, head, colours[row][head], texts[row][head], f"layer {layers[row]}, head {head}: {label}")
            for head, label in enumerate(labels[row])
        )
        for row, layer in enumerate(decomposition.layers)
    )
    return MapView(title, note, "0 %", percent(most), layers, rows, problem)
