"""What other programs may ask of an explorer: its MCP tools."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.edit_view import draft, preview
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.search_view import LONGEST, Result, answer_to
from sith_hf.gains import gain_rows

MOST_RESULTS = 200
"""The largest number of results."""


@dataclass(frozen=True, eq=False)
class Tools:
    """Typed and documented functions, whose results are JSON texts.

    Attributes:
        explorer: what is shown.
    """

    explorer: Explorer

    def search(self, concept: str, limit: int = 20) -> str:
        """Find the singular vectors of attention heads whose words mention a concept or a similar one.

        Args:
            concept: A word or short text, such as "beach". Without the model it must be a concept of the dictionary.
            limit: The largest number of results, 1 to 200.

        Returns:
            JSON: the matches, strongest first: layer, head, vector, pole, strength (the weights of the words about the
            concept), share (of them among all its words), energy (the vector's share of its head's energy) and words;
            in "silent", those explained no better than chance.
        """
        (concept,) = _concepts([concept], "concept")
        if not concept.strip():
            raise InputError("the concept is blank: write a word, such as beach")
        if len(concept) > LONGEST:
            raise InputError(f"a concept has at most {LONGEST} characters; this text has {len(concept)}")
        answer = answer_to(self.explorer, " ".join(concept.split()), whole_number(limit, "limit", 1, MOST_RESULTS))
        if answer.problem and not (answer.results or answer.silent):
            meant = f" (did you mean {answer.meant}?)" if answer.meant else ""
            return json_text(concept=answer.concept, matches=[], silent=[], problem=f"{answer.problem}{meant}")
        matches, silent = ([_plain(item) for item in part] for part in (answer.results, answer.silent))
        return json_text(concept=answer.concept, matches=matches, silent=silent)

    def explain(self, layer: int, head: int, vector: int) -> str:
        """Explain one singular vector of an attention head: what it writes, what drives it, and how well that is known.

        Args:
            layer: The number of the layer.
            head: The number of the head in the layer, from 0.
            vector: The number of the vector in the head, from 0, the strongest.

        Returns:
            JSON: singular_value, energy (its share of the head's energy), and its poles: writes (concept, weight),
            driven_by (concept, correlation), fidelity, ceiling, chance, p_value, and silent (explained no better than
            chance).
        """
        found = self.explorer.decomposition
        place = found.place(layer, head, vector)
        poles = [found.explain(layer, head, vector, pole) for pole in found.poles]
        return json_text(
            layer=layer,
            head=head,
            vector=vector,
            side=found.side,
            singular_value=float(found.singular_values[place]),
            energy=float(found.energy_share[place]),
            poles=[
                {
                    "pole": item.pole,
                    f"{found.side}s": [list(pair) for pair in item.concepts],
                    "driven_by": None if item.driven_by is None else [list(pair) for pair in item.driven_by],
                    "fidelity": item.fidelity,
                    "ceiling": item.ceiling,
                    "chance": item.chance,
                    "p_value": item.p_value,
                    "silent": None if item.beyond_chance is None else item.silent,
                }
                for item in poles
            ],
        )

    def edit(self, suppress: list[str], amplify: list[str], gain: float = 1.5) -> str:
        """Choose the singular vectors that an edit of concepts would change, and estimate its impact. Writes no file.

        Args:
            suppress: Concepts to remove (gain 0), such as ["beach", "ocean"].
            amplify: Concepts to amplify.
            gain: The gain of the amplified concepts, above 1.

        Returns:
            JSON: items (each concept, its number of vectors, what is left out, and its problem if it has one), impact
            (vectors, energy, drift), warnings, and vectors (layer, head, vector, gain and why).
        """
        suppress, amplify = _concepts(suppress, "suppress"), _concepts(amplify, "amplify")
        both = {concept.strip().casefold() for concept in suppress} & {
            concept.strip().casefold() for concept in amplify
        }
        if both:
            raise InputError(f"{sanitize(min(both))} is both suppressed and amplified: name it once")
        basket = Basket()
        for concepts, value in ((suppress, 0.0), (amplify, gain)):
            for concept in concepts:
                basket = basket.with_item(Item(value, concept=concept))
        if not basket.items:
            raise InputError("there is nothing to edit: name concepts to suppress or to amplify")
        found = preview(self.explorer, basket)
        gains = draft(self.explorer, basket).gains
        return json_text(**found.to_json(), vectors=gain_rows(self.explorer.decomposition, gains))


def _concepts(values: Any, what: str) -> list[str]:
    """Return texts that a program sent. Raises InputError for anything else: a text is no list of texts."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        expected = "a text, such as beach" if what == "concept" else 'a list of texts, such as ["beach"]'
        raise InputError(f"{what} must be {expected}")
    return values


def json_text(**values: Any) -> str:
    """Return a JSON object as text: a dict would reach a client as Python prints it."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _plain(item: Result) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value := getattr(item, name), tuple) else value
        for name in ("layer", "head", "vector", "pole", "strength", "share", "energy", "words")
    }
