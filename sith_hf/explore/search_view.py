"""Search: texts in a box, and the vectors that mention them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.errors import InputError, SithError
from sith_hf.explore.embedding import ENCODED, embedding_of, meant_by
from sith_hf.explore.explorer import Explorer
from sith_hf.towers import layer_title

MOST, LONGEST = 100, 200
"""The largest number of concepts in a search, and of characters of one."""

# Results of a single concept, and of each of several.
_ONE, _EACH = 20, 5


@dataclass(frozen=True)
class Result:
    """A pole that mentions a concept.

    Attributes:
        layer, head, vector, pole: the pole.
        place: the same for a person.
        strength: the weights of its words about the concept, each times its cosine, summed.
        length: of the bar, the strength relative to the strongest result.
        share: the share of its words that are about the concept, 0 to 1.
        energy: the vector's share of the head's energy.
        words: its words, strongest first.
        silent: whether its words are known to be no better than chance.
    """

    layer: int
    head: int
    vector: int
    pole: str
    place: str
    strength: float
    length: float
    share: float
    energy: float
    words: tuple[str, ...]
    silent: bool


@dataclass(frozen=True)
class Answer:
    """The results of one concept.

    Attributes:
        concept: the concept.
        how: where its embedding is from.
        results: the poles that mention it, strongest first, with words beyond chance.
        silent: those whose words are no better than chance.
        problem: why there are none; empty if there may be some.
        meant: a concept that may be meant; empty if there is none.
    """

    concept: str
    how: str = ""
    results: tuple[Result, ...] = ()
    silent: tuple[Result, ...] = ()
    problem: str = ""
    meant: str = ""


@dataclass(frozen=True)
class SearchView:
    """The results of a search.

    Attributes:
        answers: one for each concept, in the order of the text.
        side: what the words are of, ``"write"`` or ``"read"``.
        hint: what to do, where there is nothing to search for; empty otherwise.
        problem: why nothing was searched for; empty if something was.
    """

    answers: tuple[Answer, ...]
    side: str
    hint: str = ""
    problem: str = ""


def concepts_of(text: str) -> list[str]:
    """Return the concepts in a text, separated by commas or lines, each once. Raises InputError for too many."""
    # The limits hold before anything is split: a pasted dictionary must not keep the page waiting.
    if len(text) > MOST * LONGEST:
        raise InputError(f"the text has {len(text):,} characters: search for at most {MOST} concepts at a time")
    found = {" ".join(part.split()): None for part in re.split(r"[,;\n]", text)}
    found.pop("", None)
    if len(found) > MOST:
        raise InputError(f"there are {len(found):,} concepts in the text: search for at most {MOST} at a time")
    for concept in found:
        if len(concept) > LONGEST:
            raise InputError(f"a concept has at most {LONGEST} characters; one in the text has {len(concept)}")
    return list(found)


def search_view(explorer: Explorer, text: str) -> SearchView:
    """Search for the concepts in a text. What is wrong is part of the result."""
    side = explorer.decomposition.side
    try:
        explorer.decomposition.require_words()
        concepts = concepts_of(text)
    except InputError as error:
        return SearchView((), side, problem=str(error))
    if not concepts:
        known = "any text" if explorer.model else "a concept of the dictionary"
        return SearchView(
            (), side, hint=f"Write {known}, such as {_example(explorer)}; several are separated by commas."
        )
    limit = _ONE if len(concepts) == 1 else _EACH
    return SearchView(tuple(answer_to(explorer, concept, limit) for concept in concepts), side)


def answer_to(explorer: Explorer, concept: str, limit: int = _ONE) -> Answer:
    """Return the poles that mention a concept; what is wrong is part of the result."""
    try:
        embedding, how = embedding_of(explorer, concept)
        heard, silent = _strongest(explorer.decomposition, embedding, limit)
    except SithError as error:
        return Answer(concept, problem=str(error), meant=meant_by(explorer, concept))
    problem = "" if heard or silent else f"No vector mentions it, or a concept with a cosine of at least {NEAR}."
    meant = meant_by(explorer, concept) if how == ENCODED else ""
    return Answer(concept, how, heard, silent, problem, meant)


def _strongest(
    decomposition: Decomposition, embedding: Tensor, limit: int
) -> tuple[tuple[Result, ...], tuple[Result, ...]]:
    """Return the poles that mention a concept most: those with words beyond chance, and apart the silent ones."""
    strength = decomposition.strength(embedding.reshape(1, -1).float()).flatten()
    total, found = decomposition.weight.sum(dim=-1).flatten(), decomposition.beyond_chance()
    heard = torch.ones_like(strength, dtype=torch.bool) if found is None else found.flatten()
    parts = []
    for chosen in (heard, ~heard):
        values = torch.where(chosen, strength, 0.0)
        order = torch.argsort(values, descending=True, stable=True)[:limit]
        parts.append(tuple(_result(decomposition, int(i), strength, total) for i in order[values[order] > 0]))
    return parts[0], parts[1]


def _result(decomposition: Decomposition, number: int, strength: Tensor, total: Tensor) -> Result:
    """Return the pole of this number among all poles."""
    item = decomposition.at(number)
    title = layer_title(item.layer, decomposition.base.settings)
    return Result(
        item.layer,
        item.head,
        item.vector,
        item.pole,
        f"layer {title}, head {item.head}, vector {item.vector}",
        float(strength[number]),
        float(strength[number] / strength.max()),
        float(strength[number] / total[number]),
        item.energy_share,
        tuple(text for text, _ in item.concepts),
        item.silent,
    )


def _example(explorer: Explorer) -> str:
    """Return a concept of the strongest vector that has words beyond chance."""
    found = explorer.decomposition
    values = found.singular_values.double()
    beyond = found.beyond_chance()
    heard = values if beyond is None else values * beyond.any(-1)
    place = divmod(int(heard.argmax()), found.num_heads * found.rank)
    head, vector = divmod(place[1], found.rank)
    poles = [found.explain(found.layers[place[0]], head, vector, pole) for pole in found.poles]
    named = [pole.concepts[0][0] for pole in poles if pole.concepts and not pole.silent]
    return sanitize(named[0] if named else found.texts[0], 40)
