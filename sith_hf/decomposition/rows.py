"""Rows of a decomposition for datasets and pandas: one for each explained pole, or for each vector without words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sith_hf.decomposition.explanation import Explanation, words_text
from sith_hf.decomposition.heads import ExplainedHeads

_COLUMNS = (
    "layer", "head", "vector", "pole", "singular_value", "energy_share", "fidelity", "ceiling", "chance", "p_value",
    "beyond_chance", "words", "concepts", "weights", "driven_by", "correlations", "coherence", "p_head", "head_chance",
    "total_cosine",
)  # fmt: skip
_NUMBERS = ("chance", "p_value", "p_head", "head_chance", "total_cosine")


def pole_rows(explanations: Sequence[Explanation], *, driven: bool) -> list[dict[str, Any]]:
    """Return the fields of explanations, with the pairs of a concept and a number as two lists.

    Args:
        explanations: the rows.
        driven: whether what drives the poles was measured; else ``driven_by`` is None and has no correlations.
    """
    return [vars(item) | _split(item) | (_driven(item) if driven else {}) for item in explanations]


def pole_frame(explanations: Sequence[Explanation]) -> Any:
    """Return a ``pandas.DataFrame`` with a row for each pole; :meth:`Decomposition.to_pandas` has its columns."""
    import pandas

    rows = [{**vars(item), **_split(item), **_driven(item), "words": words_text(item)} for item in explanations]
    frame = pandas.DataFrame(rows, columns=list(_COLUMNS))
    # Columns in which nothing is known would be of objects.
    return frame.astype({**dict.fromkeys(_NUMBERS, "float64"), "beyond_chance": "boolean"})


def strength_frame(heads: ExplainedHeads, keys: Sequence[tuple[int, int, int]]) -> Any:
    """Return a ``pandas.DataFrame`` with a row for each vector: layer, head, vector, singular_value, energy_share."""
    import pandas

    places = [heads.place(*key) for key in keys]
    rows = [
        (*key, float(heads.singular_values[place]), float(heads.energy_share[place]))
        for key, place in zip(keys, places, strict=True)
    ]
    return pandas.DataFrame(rows, columns=["layer", "head", "vector", "singular_value", "energy_share"])


def _split(item: Explanation) -> dict[str, Any]:
    return {"concepts": [text for text, _ in item.concepts], "weights": [weight for _, weight in item.concepts]}


def _driven(item: Explanation) -> dict[str, list[str] | list[float] | None]:
    if item.driven_by is None:
        return {"driven_by": None, "correlations": None}
    return {"driven_by": [text for text, _ in item.driven_by], "correlations": [value for _, value in item.driven_by]}
