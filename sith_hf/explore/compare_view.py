"""Two decompositions, or a base and a tuned model, side by side: maps of the change, and the vectors of a head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sith_hf.adaptation import TURNED, DecompositionDiff
from sith_hf.decomposition import Decomposition
from sith_hf.explore.html import percent
from sith_hf.explore.map_view import Cell, MapView
from sith_hf.towers import layer_title

# Directions with a larger cosine differ by rounding only.
SAME = 0.9999
SHOWN = 8
"""Vectors that are not folded."""


@dataclass(frozen=True)
class Word:
    """A concept of an explanation.

    Attributes:
        text: the concept.
        weight: its weight.
        only: whether the other side lacks it.
    """

    text: str
    weight: float
    only: bool = False


@dataclass(frozen=True)
class Pole:
    """The words of one pole of a direction; ``silent`` if they are known to be no better than chance."""

    pole: str
    words: tuple[Word, ...]
    silent: bool = False


@dataclass(frozen=True)
class VectorPair:
    """A vector, and the one of the other side that is most like it.

    Attributes:
        vector, other: their numbers.
        cosine: of their directions, without its sign.
        share, other_share: of the energy of their heads, 0 to 1.
        poles: for each pole, its words in both; the other vector is turned so that its poles point the same way. Empty
            without words.
    """

    vector: int
    other: int
    cosine: float
    share: float
    other_share: float
    poles: tuple[tuple[Pole, Pole], ...]

    @property
    def same(self) -> bool:
        """Whether the directions are the same."""
        return self.cosine > SAME

    @property
    def silent(self) -> bool:
        """Whether it has poles, and no pole of either side is better than chance."""
        return bool(self.poles) and all(pole.silent for pair in self.poles for pole in pair)


@dataclass(frozen=True, eq=False)
class Side:
    """The vectors of a head on one side.

    Attributes:
        directions: ``[R, D]``, unit length.
        shares: of the energy of the head, R.
        poles: for each vector its poles; without words, no pole.
    """

    directions: Tensor
    shares: tuple[float, ...]
    poles: tuple[tuple[Pole, ...], ...]


@dataclass(frozen=True)
class Direction:
    """A direction of a change, its share of the change of its head, 0 to 1, and the words of its poles."""

    share: float
    poles: tuple[Pole, ...]

    @property
    def silent(self) -> bool:
        """Whether no pole is better than chance."""
        return all(pole.silent for pole in self.poles)


@dataclass(frozen=True)
class HeadComparison:
    """A head on both sides.

    Attributes:
        layer, head: its numbers.
        title: its place.
        facts: the numbers of its change: what, and how much.
        pairs: its vectors, strongest first; empty where they are not known.
        writes, reads: the directions that the change itself writes and reads; None where they are not known.
        note: what is not known here, and why; empty for nothing.
    """

    layer: int
    head: int
    title: str
    facts: tuple[tuple[str, str], ...]
    pairs: tuple[VectorPair, ...] = ()
    writes: tuple[Direction, ...] | None = None
    reads: tuple[Direction, ...] | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Comparison(ABC):
    """Two sides: A, which is open, and B.

    Attributes:
        names: of A and B.
        facts: sentences about the whole.
        maps: name of a map to the map; the first one is shown at the start.
    """

    names: tuple[str, str]
    facts: tuple[str, ...]
    maps: Mapping[str, MapView]

    @abstractmethod
    def head(self, layer: int, head: int) -> HeadComparison:
        """Return a head of both. Raises InputError for one that is not in both."""


def side_of(found: Decomposition, layer: int, head: int) -> Side:
    """Return the vectors of a head of a decomposition. Raises InputError for a layer or head that is not there."""
    place = found.position(layer), found.resolve_head(head)
    explained = [[found.explain(layer, head, vector, p) for p in found.poles] for vector in range(found.rank)]
    return Side(
        getattr(found, found.side)[place].double(),
        tuple(found.energy_share[place].tolist()),
        tuple(tuple(Pole(e.pole, words_of(e.concepts), e.silent) for e in poles) for poles in explained),
    )


def words_of(concepts: Iterable[tuple[str, float]]) -> tuple[Word, ...]:
    """Return the words of an explanation."""
    return tuple(Word(text, weight) for text, weight in concepts)


def vector_pairs(first: Side, second: Side) -> tuple[VectorPair, ...]:
    """Return the vectors of ``first``, each beside the vector of ``second`` that is most like it."""
    cosines = first.directions @ second.directions.T
    best = cosines.abs().argmax(1).tolist()
    return tuple(
        VectorPair(
            vector,
            other,
            min(float(cosines[vector, other].abs()), 1.0),
            first.shares[vector],
            second.shares[other],
            tuple(_poles(first.poles[vector], second.poles[other], bool(cosines[vector, other] < 0))),
        )
        for vector, other in enumerate(best)
    )


def _poles(ours: Sequence[Pole], theirs: Sequence[Pole], turned: bool) -> Iterator[tuple[Pole, Pole]]:
    """Return the poles that point the same way, with marks at the words that only one of them has."""
    for pole in ours:
        wanted = {"+": "-", "-": "+"}[pole.pole] if turned else pole.pole
        for other in theirs:
            if other.pole == wanted:
                yield _marked(pole, other), _marked(other, pole)


def _marked(pole: Pole, other: Pole) -> Pole:
    texts = {word.text for word in other.words}
    return replace(pole, words=tuple(replace(word, only=word.text not in texts) for word in pole.words))


def decomposition_maps(first: Decomposition, second: Decomposition, diff: DecompositionDiff) -> dict[str, MapView]:
    """Return the maps of two decompositions: the energy in vectors that turned, and the words that B lacks."""
    turned = {(block.layer, block.head): 0.0 for block in diff.blocks}
    for block in diff.blocks:
        if block.angle > TURNED:
            share = first.energy_share[first.position(block.layer), block.head].double()
            turned[block.layer, block.head] += float(share[block.first_vector : block.last_vector + 1].sum())
    settings = first.base.settings
    note = f"The share of the head's energy in A in vectors that differ by more than {TURNED:g} degrees in B."
    title, said = "Energy in vectors that turned, % of the head", "of its energy is in vectors that turned"
    found = {"vectors": share_map(turned, settings, title, note, said)}
    if first.has_words and second.has_words:
        lost = {(layer, head): x for layer in diff.layers for head, x in enumerate(lost_words(first, second, layer))}
        known = "" if first.significance is None else " Of A only words better than chance count."
        note = f"The weight of the words of A that B lacks: each vector is compared with the one most like it.{known}"
        title, said = "Words that B lacks, % of their weight", "of the weight of its words is of words that B lacks"
        found["words"] = share_map(lost, settings, title, note, said)
    return found


def lost_words(first: Decomposition, second: Decomposition, layer: int) -> list[float]:
    """Return for each head of a layer the weight of the words of ``first`` that ``second`` lacks, 0 to 1.

    Each vector is compared with that of ``second`` whose direction is most like it, and counts with its energy.
    """
    ours, theirs = first.position(layer), second.position(layer)
    cosines = getattr(first, first.side)[ours] @ getattr(second, second.side)[theirs].mT  # [H, R, R']
    best = cosines.abs().argmax(-1)
    turned = cosines.gather(-1, best.unsqueeze(-1)) < 0
    numbers = {text: number for number, text in enumerate(first.texts)}
    known = torch.tensor([numbers.get(text, -2) for text in second.texts] + [-2])  # -1, no concept, finds the last
    other = known[second.concept[theirs]]  # [H, R', poles, K]
    other = other[torch.arange(len(best)).unsqueeze(-1), best]
    if len(second.poles) == 2:
        other = torch.where(turned.unsqueeze(-1), other.flip(-2), other)
    concept, weight = first.concept[ours], first.weight[ours].double()
    poles = min(concept.shape[-2], other.shape[-2])
    concept, weight, other = concept[..., :poles, :], weight[..., :poles, :], other[..., :poles, :]
    beyond = first.beyond_chance()
    heard = torch.ones(concept.shape[:-1]) if beyond is None else beyond[ours][..., :poles]
    weight = weight * heard.unsqueeze(-1) * first.energy_share[ours].double()[..., None, None]
    lost = ~(concept.unsqueeze(-1) == other.unsqueeze(-2)).any(-1)
    total = weight.sum((1, 2, 3))
    return ((weight * lost).sum((1, 2, 3)) / total.clamp(min=torch.finfo(torch.float64).tiny)).tolist()


def change_map(heads: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> MapView:
    """Return the map of a change, from ``HeadChange.to_json`` of every head."""
    values = {(head["layer"], head["head"]): _relative(head) for head in heads}
    note = "The norm of the change of the head's value-output matrix over the norm of the base's."
    return share_map(values, settings, "Change of each head, % of its base", note, "of the base")


def _relative(head: Mapping[str, Any]) -> float:
    """Return ||M' - M|| / ||M||; 1 for a base of zeros that changed."""
    relative = head["relative"]
    return 1.0 if relative is None else float(relative)


def share_map(
    values: Mapping[tuple[int, int], float], settings: Mapping[str, Any], title: str, note: str, said: str
) -> MapView:
    """Return a map of values of heads, 0 to 1 and more, shown in percent.

    Args:
        values: (layer, head) to value, by layer, then head.
        settings: of the base tower.
        title, note: of the map.
        said: what a percentage is of, for the label of a head.
    """
    most = max(values.values(), default=0.0)
    titles = {layer: str(layer_title(layer, settings)) for layer, _ in values}
    rows = tuple(
        tuple(
            Cell(
                layer,
                head,
                value / most if most else 0.0,
                percent(value).removesuffix(" %"),
                f"layer {titles[layer]}, head {head}: {percent(value)} {said}",
            )
            for (layer, head), value in values.items()
            if layer == row
        )
        for row in titles
    )
    return MapView(title, note, "0 %", percent(most), tuple(titles.values()), rows)


def change_facts(head: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the numbers of the change of a head, from ``HeadChange.to_json``."""
    if not head["change_norm"]:
        return (("change", "none beyond the rounding of the weights"),)
    angles = {side: max(head[f"{side}_angles"], default=0.0) for side in ("write", "read")}
    return (
        ("change", f"{percent(_relative(head))} of the base"),
        ("reweighting of its vectors", f"{percent(head['reweighting'])} of the change"),
        ("rotation inside their span", f"{percent(head['rotation'])} of the change"),
        ("new directions", f"{percent(head['new'])} of the change"),
        *((f"largest angle of what it {side}s", f"{angle:.1f}°") for side, angle in angles.items()),
    )


def change_sentences(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sentences about a whole change, from ``Adaptation.to_json``."""
    said = [f"{data['changed_heads']} of {len(data['heads'])} heads of the {data['tower']} tower changed."]
    if data["change"]:
        parts = ", ".join(f"{100 * data[name]:.0f} % {label}" for name, label in _PARTS.items())
        said.append(f"The change is {100 * data['change']:.2g} % of the base: {parts}.")
    return tuple(said)


_PARTS = {"reweighting": "reweighting", "rotation": "rotation", "new": "new directions"}


def head_title(found: Decomposition, layer: int, head: int) -> str:
    return f"Layer {layer_title(layer, found.base.settings)}, head {head}"
