"""``ExplainedPoles``: the explanations of poles, one by one, by head, and by what they mention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.validation import whole_number
from sith_hf.decomposition.explanation import FDR, Explanation, Match
from sith_hf.decomposition.heads import NEAR, ExplainedHeads
from sith_hf.decomposition.notebook import Matches
from sith_hf.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class ExplainedPoles(ExplainedHeads):
    """The poles of explained heads. Explanations are made of the tensors when they are asked for, head by head."""

    def explain(self, layer: int, head: int, vector: int, pole: str = "+") -> Explanation:
        """Return the explanation of one pole. Raises InputError for a layer, head, vector or pole out of range."""
        position, head, vector = self.place(layer, head, vector)
        self.require_words()
        if pole not in self.poles:
            raise InputError(f"pole {pole!r} was not explained: this decomposition has {', '.join(self.poles)}")
        return self.of_head(position, head)[vector * len(self.poles) + self.poles.index(pole)]

    def of_head(self, position: int, head: int) -> tuple[Explanation, ...]:
        """Return the explanations of one head, by vector, then pole.

        Args:
            position: the index of the head's layer on axis L.
            head: its number.
        """
        key = position, head
        if key not in self._explained:
            self._explained[key] = head_explanations(self, position, head)
        return self._explained[key]

    @cached_property
    def _explained(self) -> dict[tuple[int, int], tuple[Explanation, ...]]:
        """The heads whose explanations were read so far: all of a large tower take a second."""
        return {}

    def find(
        self, concept: str, *, embedding: Tensor | None = None, near: float = NEAR, limit: int | None = 20
    ) -> list[Match]:
        """Find the poles that mention a concept or a similar one, strongest first.

        A notebook shows the result as a table.

        Args:
            concept: a concept of the explanations; any text if ``embedding`` is given.
            embedding: its text embedding, ``[P]``, for a concept that does not occur in the explanations.
            near: the lowest cosine of centred embeddings that counts as similar.
            limit: the largest number of results; all when None.

        Raises:
            InputError: an unknown concept without an embedding, or values out of range.
        """
        if limit is not None:
            limit = whole_number(limit, "limit", least=1)
        queries = (self.embedding_of(concept) if embedding is None else embedding).reshape(1, -1).float()
        strength, share = self.strength(queries, near).flatten(), self.share(queries, near).flatten()
        order = torch.argsort(strength, descending=True, stable=True)[:limit]
        found = order[strength[order] > 0].tolist()
        matches = (Match(self.at(index), float(strength[index]), float(share[index])) for index in found)
        return Matches(matches, self.base.settings)

    def at(self, number: int) -> Explanation:
        """Return an explanation by its number among all, by layer, head, vector, pole."""
        head, inside = divmod(number, self.rank * len(self.poles))
        return self.of_head(*divmod(head, self.num_heads))[inside]

    def at_rate(self, explanations: Iterable[Explanation], fdr: float) -> list[Explanation]:
        """Return explanations of this decomposition, with ``beyond_chance`` at another false discovery rate.

        Raises:
            InputError: a rate out of range.
        """
        found = self.beyond_chance(fdr)
        if found is None:
            return list(explanations)
        return [
            replace(item, beyond_chance=bool(found[(*self.place(item.layer, item.head, item.vector), pole)]))
            for item in explanations
            for pole in (self.poles.index(item.pole),)
        ]

    def theme(self, layer: int, head: int, vectors: int = 3) -> list[Explanation]:
        """Return the explanations of the strongest vectors of one head, every pole, in order."""
        self.require_words()
        key = self.position(layer), self.resolve_head(head)
        if key in self._explained:
            return list(self._explained[key][: vectors * len(self.poles)])
        # Of these vectors only: all of a large tower take a second.
        return list(head_explanations(self, *key, vectors))

    def strengths(self, layer: int, head: int, vectors: int = 3) -> list[dict[str, Any]]:
        """Return the numbers of the strongest vectors of one head: layer, head, vector, singular_value, energy_share.

        Raises:
            InputError: a layer or head that is not there.
        """
        places = [self.place(layer, head, vector) for vector in range(min(vectors, self.rank))]
        return [
            {
                "layer": self.layers[place[0]],
                "head": place[1],
                "vector": place[2],
                "singular_value": float(self.singular_values[place]),
                "energy_share": float(self.energy_share[place]),
            }
            for place in places
        ]

    def same_vectors(self, other: ExplainedPoles, explanations: Iterable[Explanation]) -> list[Explanation]:
        """Return the explanations of the same poles in a decomposition of the other side.

        Args:
            other: a decomposition of the other side of the same weights.
            explanations: explanations of this decomposition.

        Raises:
            BaseMismatch: ``other`` was made from other weights.
            InputError: ``other`` has the same side or another folding, or lacks a layer, vector or pole.
        """
        self.require_words()
        other.require_words()
        if other.side == self.side or other.settings.get("fold") != self.settings.get("fold"):
            raise InputError(
                f"the decompositions must be of the two sides of the same vectors: one explains {self.side} directions "
                f"(fold: {self.settings.get('fold')}), the other {other.side} directions "
                f"(fold: {other.settings.get('fold')})"
            )
        self.base.only(other.base.sha256).check(other.base.sha256, "the other decomposition")
        return [other.explain(item.layer, item.head, item.vector, item.pole) for item in explanations]

    def explanations(self) -> list[Explanation]:
        """Return every explained pole, by layer, head, vector, pole. Raises InputError without any."""
        self.require_words()
        heads = product(range(len(self.layers)), range(self.num_heads))
        return [item for place in heads for item in self.of_head(*place)]


def head_explanations(
    heads: ExplainedHeads, position: int, head: int, vectors: int | None = None
) -> tuple[Explanation, ...]:
    """Return the explanations of one head, by vector, then pole.

    Args:
        heads: of a decomposition.
        position: the index of the head's layer on axis L.
        head: its number.
        vectors: of how many vectors, the strongest; all when None.
    """
    here, count = (position, head, slice(vectors)), len(heads.poles)
    pairs = zip(heads.concept[here].flatten(0, 1).tolist(), heads.weight[here].flatten(0, 1).tolist(), strict=True)
    concepts = [
        tuple((heads.texts[i], w) for i, w in zip(index, weight, strict=True) if i >= 0 and w > 0)
        for index, weight in pairs
    ]
    of_pole: dict[str, Tensor | None] = {"fidelity": heads.fidelity, "coherence": heads.coherence}
    of_pole |= {"p_value": heads.p_values, "p_head": heads.p_head}
    of_vector: dict[str, Tensor | None] = {"singular_value": heads.singular_values, "ceiling": heads.ceiling}
    of_vector |= {"energy_share": heads.energy_share, "total_cosine": heads.total_cosine}
    columns: dict[str, list[Any]] = {"concepts": concepts}
    columns |= {name: each[here].flatten().tolist() for name, each in of_pole.items() if each is not None}
    columns |= {
        name: each[here].repeat_interleave(count).tolist() for name, each in of_vector.items() if each is not None
    }
    if heads.drivers is not None:
        columns["driven_by"] = heads.drivers.named(here)
    common: dict[str, Any] = {"layer": heads.layers[position], "head": head, "side": heads.side}
    found = heads.significance
    if found is not None:
        columns["beyond_chance"] = (found.q[here] <= FDR).flatten().tolist()
        common["chance"] = float(found.chance_of_layer[position])
        if found.head_chance is not None:
            common["head_chance"] = float(found.head_chance[position, head])
    names = product(range(heads.rank)[:vectors], heads.poles)
    return tuple(
        Explanation(vector=vector, pole=pole, **common, **dict(zip(columns, values, strict=True)))
        for (vector, pole), values in zip(names, zip(*columns.values(), strict=True), strict=True)
    )
