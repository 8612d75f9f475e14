"""The head of the page: what is open, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass

from sith_hf.cards import base_name
from sith_hf.explore.explorer import Explorer


@dataclass(frozen=True)
class HeaderView:
    """What is open.

    Attributes:
        title: the name of the decomposed model.
        facts: what was decomposed, in numbers.
        lacks: a sentence for each thing that is missing: what it means, and how to get it.
    """

    title: str
    facts: tuple[str, ...]
    lacks: tuple[str, ...]


def header(explorer: Explorer) -> HeaderView:
    """Return the head of the page of an explorer."""
    found = explorer.decomposition
    beyond = found.beyond_chance()
    layers = len(found.layers)
    facts = [f"{found.tower} tower", f"{layers} {'layer' if layers == 1 else 'layers'}"]
    facts += [f"{found.num_heads} {'head' if found.num_heads == 1 else 'heads'} each", f"{found.rank} vectors a head"]
    if beyond is not None:
        facts.append(f"{int(beyond.sum()):,} of {beyond.numel():,} poles beyond chance")
    return HeaderView(base_name(found.base), tuple(facts), tuple(_lacks(explorer)))


def _lacks(explorer: Explorer) -> list[str]:
    found = explorer.decomposition
    lacks = []
    if not found.has_words:
        lacks.append(
            "No words: it was decomposed without concepts. Vectors have numbers only, and are edited by number."
        )
    elif found.significance is None:
        lacks.append(
            "No p-values: it was made by an earlier release, or imported. Which words are better than chance is not "
            "known; decompose again to know."
        )
    if found.side == "read":
        lacks.append("The words say what heads look for (read directions), not what they write.")
    if explorer.model is None:
        lacks.append(
            "No model: only concepts of the decomposition can be searched, and no picture can be tried. Start again "
            "with --model, the decomposed model."
        )
    if found.tower == "text":
        lacks.append("A text tower: it sees no pictures.")
    elif explorer.images is None:
        lacks.append("No images: heads show no top images. Start again with --images.")
    return lacks
