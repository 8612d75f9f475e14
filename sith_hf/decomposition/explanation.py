"""``Explanation`` and ``Match``: the concepts of one pole of one singular vector, and table rows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sith_hf.towers import layer_title


@dataclass(frozen=True)
class Explanation:
    """The concepts of one pole of one singular vector.

    Attributes:
        layer, head, vector: the singular vector; vector 0 is the strongest of its head.
        pole: ``"+"`` for the explained direction, ``"-"`` for its opposite.
        concepts: (concept, weight), by descending weight; concepts of weight zero are left out.
        singular_value: s.
        energy_share: s^2 over the sum of all squared singular values of the head.
        fidelity: cosine between the direction and its reconstruction from the concepts (Method, sec. 5).
        ceiling: the highest possible fidelity.
        coherence: the mean pairwise cosine of the concepts' centred embeddings; 1 for a single concept.
        p_value: of the fidelity, against random directions (Method, sec. 5); None if not known.
        side: the explained direction, "write" or "read".
        driven_by: (concept, correlation), by descending correlation: the concepts whose similarity to images goes with
            how much the vector writes of this pole. Empty if none is beyond chance; None if it was not measured.
        total_cosine: the cosine of the vector's direct and total effect; None if it was not measured.
    """

    layer: int
    head: int
    vector: int
    pole: str
    concepts: tuple[tuple[str, float], ...]
    singular_value: float
    energy_share: float
    fidelity: float
    ceiling: float
    coherence: float
    p_value: float | None = None
    side: str = "write"
    driven_by: tuple[tuple[str, float], ...] | None = None
    total_cosine: float | None = None


@dataclass(frozen=True)
class Match:
    """A result of :meth:`Decomposition.find`.

    Attributes:
        explanation: the pole that mentions the concept.
        strength: the weights of the concept and similar ones, each times its cosine, summed.
        share: strength divided by the sum of the explanation's weights, 0 to 1.
    """

    explanation: Explanation
    strength: float
    share: float


def explanation_rows(
    explanations: Sequence[Explanation], settings: Mapping[str, Any]
) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows for :func:`sith_hf.core.tables.table`; ``settings``: of the decomposed base."""
    columns = ["layer", "head", "vector", "pole", "energy", "fidelity", "concepts (weight)"]
    titles = {e.layer: layer_title(e.layer, settings) for e in explanations}
    return columns, [
        [titles[e.layer], e.head, e.vector, e.pole, e.energy_share, e.fidelity, concepts_text(e)] for e in explanations
    ]


def match_rows(matches: Sequence[Match], settings: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows for :func:`sith_hf.core.tables.table`; ``settings``: of the decomposed base."""
    columns, rows = explanation_rows([match.explanation for match in matches], settings)
    rows = [[*row[:4], match.strength, match.share, *row[4:]] for match, row in zip(matches, rows, strict=True)]
    return [*columns[:4], "strength", "share", *columns[4:]], rows


def concepts_text(explanation: Explanation) -> str:
    """Return the concepts and weights as text, such as ``sea 0.61, ocean 0.40``; a blank concept is ``""``."""
    blank = '""'
    return ", ".join(f"{text or blank} {weight:.2f}" for text, weight in explanation.concepts)
