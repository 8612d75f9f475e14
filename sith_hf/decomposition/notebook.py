"""Explanations as HTML for notebooks: tables of poles and of matches. Silent poles say so and show no words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from sith_hf.core.html import bar, block, faint, html_table
from sith_hf.decomposition.explanation import Explanation, Match, silent_line, weighted_html
from sith_hf.towers import layer_title

MOST_ROWS = 20
"""The longest table in a notebook; below it stands how many rows were left out."""


def pole_table(
    explanations: Sequence[Explanation],
    settings: Mapping[str, Any],
    *,
    more: int = 0,
    before: Sequence[tuple[str, Sequence[object]]] = (),
) -> Markup:
    """Return a table with a row for each pole.

    Args:
        explanations: the rows.
        settings: of the decomposed base.
        more: how many rows were left out.
        before: more columns between the pole and its energy, each a heading and its cells.
    """
    if not explanations:
        return faint("no pole")
    columns = ["layer", "head", "vector", "pole", *(name for name, _ in before), "energy", "fidelity"]
    columns.append(f"{explanations[0].side}s (weight)")
    measured = any(item.driven_by is not None for item in explanations)
    rows: list[list[object]] = []
    for number, item in enumerate(explanations):
        cells = (values[number] for _, values in before)
        energy = bar(item.energy_share, f"{item.energy_share:.1%}", width=3.0)
        place = [layer_title(item.layer, settings), item.head, item.vector, item.pole]
        words = faint("silent") if item.silent else weighted_html(item.concepts)
        rows.append([*place, *cells, energy, item.fidelity, words, *([_driven(item)] if measured else [])])
    dim = [number for number, item in enumerate(explanations) if item.silent and not item.driven_by]
    return html_table([*columns, *(["driven by (correlation)"] if measured else [])], rows, dim=dim, more=more)


def _driven(item: Explanation) -> Markup:
    if item.driven_by is None:
        return faint("not measured")
    return weighted_html(item.driven_by) if item.driven_by else faint("silent")


class Matches(list[Match]):
    """The results of a search, strongest first: a list that a notebook shows as a table.

    Args:
        matches: the results.
        settings: of the decomposed base.
    """

    def __init__(self, matches: Iterable[Match] = (), settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(matches)
        self.settings = settings or {}

    def _repr_html_(self) -> str:
        shown = self[:MOST_ROWS]
        title = f"{len(self)} {'pole' if len(self) == 1 else 'poles'} found"
        if not shown:
            return block(title)
        found = [match.explanation for match in shown]
        columns = [(name, [getattr(match, name) for match in shown]) for name in ("strength", "share")]
        rows = pole_table(found, self.settings, before=columns, more=len(self) - len(shown))
        return block(title, rows, faint(silent_line([match.explanation for match in self])))
