"""The first sentence of a card: what an edit does to which concepts, in how many vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sith_hf.cards.markdown import markdown_text
from sith_hf.core.formatting import count, counted, factor, fraction, listed, percent
from sith_hf.edits import AnySpec, EditEffect, EditSpec
from sith_hf.gains import Direction
from sith_hf.towers import number_of_layers

# Concepts that the sentence names for each verb, and characters of a concept.
MOST, LONGEST = 5, 60

TIMES = "\N{MULTIPLICATION SIGN}"

Escape = Callable[[str, int], str]


class _Action(NamedTuple):
    """A verb, the concepts that it is about, and the gains."""

    verb: str
    concepts: tuple[str, ...]
    gains: str


def headline(spec: AnySpec, escape: Escape = markdown_text) -> str:
    """Return one sentence without its full stop: ``Suppresses beach and ocean, amplifies bird ×1.5, in 12 of ...``.

    It names the concepts by which the vectors were chosen; where they are not recorded, it counts the vectors.

    Args:
        spec: the edit; of a revert, what the edit does that it removes.
        escape: what makes a concept harmless, which is a text from outside; called with the most characters.
    """
    parts = spec.parts
    found = [(_sentence(_actions(part), escape), part) for part in parts]
    if all(text == found[0][0] for text, _ in found) and found[0][0]:
        where = listed([f"{_vectors(part)} of the {part.tower} tower" for part in parts])
        sentence = f"{found[0][0]}, in {where}"
    else:
        sentence = "; ".join(
            f"{text}, in {_vectors(part)} of the {part.tower} tower" if text else _counts(part) for text, part in found
        )
    # Concepts may begin with any character, and come after the first verb.
    return sentence[:1].upper() + sentence[1:]


def measured_line(
    effect: EditEffect | None, results: Sequence[Mapping[str, Any]], escape: Escape = markdown_text
) -> str | None:
    """Return what was measured in one sentence without its full stop; None if nothing was.

    Args:
        effect: of the edit.
        results: rows of :func:`sith_hf.cards.measured.measured_rows`; the first worst group counts, else the first row.
        escape: as for :func:`headline`.
    """
    said = []
    for item in () if effect is None else effect.named:
        which = "weakened" if item.direction == "less" else "strengthened"
        keeps = f"the similarity of images to the {which} concepts keeps {percent(item.mean)} of its variation"
        chance = ", no more than chance" if item.beyond_chance is False else ", inverted" if item.mean < 0 else ""
        random = "" if item.random is None else f", random vectors {percent(item.random)}"
        said.append(f"{keeps} (other concepts {percent(item.others)}{random}{chance})")
    if results:
        row = next((row for row in results if "worst" in row["metric"]), results[0])
        said.append(f"{escape(row['metric'], 2 * LONGEST)} from {fraction(row['base'])} to {fraction(row['edited'])}")
    return "; ".join(said) or None


def named_concepts(spec: AnySpec) -> list[str]:
    """Return the concepts by which the vectors of an edit were chosen, in the order of :func:`headline`."""
    return list(dict.fromkeys(concept for part in spec.parts for item in _actions(part) for concept in item.concepts))


def tower_vectors(spec: EditSpec) -> int | None:
    """Return the number of singular vectors in the heads of a spec's tower; None if its depth is not recorded."""
    layers = number_of_layers(spec.base.settings)
    return layers * int(spec.write.shape[1]) if isinstance(layers, int) and layers > max(spec.layers) else None


def _vectors(spec: EditSpec) -> str:
    """Return how many vectors of how many an edit of a tower changes."""
    total = tower_vectors(spec)
    return counted(len(spec), "vector") if total is None else f"{count(len(spec))} of {counted(total, 'vector')}"


def _sentence(actions: list[_Action], escape: Escape) -> str:
    shown = []
    for item in actions:
        names = [escape(text, LONGEST) or '""' for text in item.concepts[:MOST]]
        shown.append(f"{item.verb} {listed([*names, *item.concepts[MOST:]], MOST)}{item.gains}")
    return ", ".join(shown)


def _actions(spec: EditSpec) -> list[_Action]:
    """Return what an edit of a tower does to the concepts that it names, suppressed ones first."""
    gains: dict[tuple[str, Direction], list[float]] = {}
    named = () if spec.provenance is None else spec.provenance.named
    for gain, concepts in zip(spec.gain.tolist(), named, strict=bool(named)):
        for concept, direction in concepts.items():
            gains.setdefault((concept, direction), []).append(gain)
    # The largest changes first: the order in which an edit names its concepts is not recorded.
    order = sorted(gains, key=lambda key: (key[1] == "more", -sum(abs(gain - 1) for gain in gains[key]), key[0]))
    grouped: dict[tuple[str, str], list[str]] = {}
    for concept, direction in order:
        grouped.setdefault(_verb(direction, gains[concept, direction]), []).append(concept)
    return [_Action(verb, tuple(concepts), text) for (verb, text), concepts in grouped.items()]


def _verb(direction: Direction, gains: list[float]) -> tuple[str, str]:
    """Return the verb for these gains, and the gains as text."""
    # Gains of two edits of one vector multiply, and may end on the other side of 1.
    own = [gain for gain in gains if (gain > 1) == (direction == "more")]
    if not own:
        return ("amplifies" if direction == "more" else "weakens"), ""
    low, high = min(own), max(own)
    ends = dict.fromkeys(f"{TIMES}{factor(gain)}" for gain in (low, high))
    text = f" {' to '.join(ends)}"
    if direction == "more":
        return "amplifies", text
    if low == high == 0:
        return "suppresses", ""
    return ("inverts" if high < 0 else "weakens"), "" if low == high == -1 else text


def _counts(spec: EditSpec) -> str:
    """Return how many vectors of a tower an edit removes, inverts, weakens and amplifies."""
    counts = Counter(_change(gain) for gain in spec.gain.tolist())
    total = tower_vectors(spec)
    of = "" if total is None else f"of {count(total)} "
    noun = "vector" if (total or len(spec)) == 1 else "vectors"
    verbs = [f"{verb} {count(number)}" for verb, number in counts.items()]
    return f"{listed(verbs)} {of}singular {noun} of the {spec.tower} tower"


def _change(gain: float) -> str:
    if gain == 0:
        return "removes"
    if gain < 0:
        return "inverts"
    return "weakens" if gain < 1 else "amplifies"
