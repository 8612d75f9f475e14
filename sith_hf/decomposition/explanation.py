"""``Explanation`` and ``Match``: the concepts of one pole of one singular vector, and table rows of them.

Every pole gets concepts, but those of most poles fit no better than the concepts of a random direction. Such a pole is
*silent*: its words are stored, and shown only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sith_hf.core.escaping import sanitize
from sith_hf.core.html import bar, block, fact_table, faint, html_table, joined, text
from sith_hf.towers import layer_title

FDR = 0.05
"""The false discovery rate at which a pole is beyond chance."""

CHANCE = "(chance)"

SHOWN = 8
"""The longest list of concepts in a cell of a notebook's table."""

WORDS = 6
"""The column of words in a table of explanations."""


@dataclass(frozen=True, repr=False)
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
        p_head: of the fidelity, against random directions of what the head can write; None if not known.
        chance: the mean fidelity of the random directions of ``p_value``; None if not known.
        head_chance: the mean fidelity of those of ``p_head``; None if not known.
        beyond_chance: whether the fidelity is better than chance at a false discovery rate of 0.05 over all poles; if
            not, the pole is silent, and printing it shows no concepts. None if not known.
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
    p_head: float | None = None
    chance: float | None = None
    head_chance: float | None = None
    beyond_chance: bool | None = None

    @property
    def silent(self) -> bool:
        """Whether the explanation is known to be no better than chance."""
        return self.beyond_chance is False

    def __repr__(self) -> str:
        p = "" if self.p_value is None else f", p {self.p_value:.2g}"
        return f"Explanation({self.place}: {sanitize(words_text(self), 400)}; fidelity {self.fidelity:.3f}{p})"

    @property
    def place(self) -> str:
        """The pole in words: ``layer 3, head 1, vector 0, pole +``."""
        return f"layer {self.layer}, head {self.head}, vector {self.vector}, pole {self.pole}"

    def _repr_html_(self) -> str:
        silent = faint("silent: explained no better than chance")
        words = silent if self.silent else _bars(self.concepts) if self.concepts else faint("no concepts")
        facts: list[tuple[str, object]] = [
            ("energy", f"{self.energy_share:.1%} of the head"),
            ("fidelity", f"{self.fidelity:.3f} of at most {self.ceiling:.3f}"),
            ("chance", None if self.chance is None else f"{self.chance:.3f}"),
            ("p-value", None if self.p_value is None else f"{self.p_value:.2g}"),
            (f"{self.side}s", words),
        ]
        if self.driven_by is not None:
            facts.append(("driven by", _bars(self.driven_by) if self.driven_by else faint("silent")))
        return block(self.place, fact_table(facts))


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        item = self.explanation
        words = sanitize(words_text(item), 400)
        return f"Match(strength {self.strength:.3f}, share {self.share:.3f}: {item.place}: {words})"

    def _repr_html_(self) -> str:
        found = fact_table([("strength", f"{self.strength:.3f}"), ("share", f"{self.share:.3f}")])
        return block("Match", found, Markup(self.explanation._repr_html_()))


def explanation_rows(
    explanations: Sequence[Explanation], settings: Mapping[str, Any]
) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows for :func:`sith_hf.core.tables.table`; ``settings``: of the decomposed base.

    Column ``WORDS`` says what each pole writes (or reads), and the next one, if it was measured, what drives it.
    The concepts of a silent pole are there, with a mark: leave the pole out, or show that the words are chance.
    """
    side = explanations[0].side if explanations else "write"
    columns = ["layer", "head", "vector", "pole", "energy", "fidelity", f"{side}s (weight)"]
    titles = {e.layer: layer_title(e.layer, settings) for e in explanations}
    rows: list[list[object]] = [
        [titles[e.layer], e.head, e.vector, e.pole, e.energy_share, e.fidelity, marked_text(e)] for e in explanations
    ]
    if any(e.driven_by is not None for e in explanations):
        columns.append("driven by (correlation)")
        rows = [[*row, driven_text(e)] for row, e in zip(rows, explanations, strict=True)]
    return columns, rows


def match_rows(matches: Sequence[Match], settings: Mapping[str, Any]) -> tuple[list[str], list[list[object]]]:
    """Return columns and rows for :func:`sith_hf.core.tables.table`; ``settings``: of the decomposed base."""
    columns, rows = explanation_rows([match.explanation for match in matches], settings)
    rows = [[*row[:4], match.strength, match.share, *row[4:]] for match, row in zip(matches, rows, strict=True)]
    return [*columns[:4], "strength", "share", *columns[4:]], rows


def concepts_text(explanation: Explanation) -> str:
    """Return the concepts and weights as text, such as ``sea 0.61, ocean 0.40``; a blank concept is ``""``.

    A silent pole has concepts too: :func:`words_text` shows none for it.
    """
    blank = '""'
    return ", ".join(f"{text or blank} {weight:.2f}" for text, weight in explanation.concepts)


def driven_text(explanation: Explanation) -> str:
    """Return the concepts that drive a pole and their correlations as text; ``silent`` if none is beyond chance."""
    if explanation.driven_by is None:
        return "not measured"
    return ", ".join(f"{text} {value:.2f}" for text, value in explanation.driven_by) or "silent"


def weighted_html(pairs: Sequence[tuple[str, float]]) -> Markup:
    """Return concepts with their weights or correlations as HTML, as many as fit into a cell of a table."""
    shown = [Markup("<bdi>{}</bdi> {}").format(text(name or '""', 60), faint(f"{value:.2f}")) for name, value in pairs]
    more = [faint(f"and {len(shown) - SHOWN} more")] if len(shown) > SHOWN else []
    return joined([*shown[:SHOWN], *more])


def _bars(pairs: Sequence[tuple[str, float]]) -> Markup:
    """Return concepts with their weights as a table with bars."""
    rows = [[Markup("<bdi>{}</bdi>").format(text(name or '""', 60)), bar(v, f"{v:.2f}")] for name, v in pairs[:SHOWN]]
    return html_table([], rows, more=max(0, len(pairs) - SHOWN))


def words_text(explanation: Explanation) -> str:
    """Return the concepts and weights as text, or that a pole is silent."""
    return "silent" if explanation.silent else concepts_text(explanation)


def poles_label(poles: Sequence[Explanation], *, quiet: bool = False) -> str:
    """Return the concepts of the poles of one vector in one line; ``quiet``: without those of silent poles."""
    words = ("silent" if quiet and p.silent else ", ".join(text for text, _ in p.concepts) for p in poles)
    return " | ".join(f"{pole.pole} {text}" for pole, text in zip(poles, words, strict=True))


def marked_text(explanation: Explanation) -> str:
    """Return the concepts and weights as text, with a mark if they are no better than chance."""
    return f"{concepts_text(explanation)} {CHANCE}".strip() if explanation.silent else concepts_text(explanation)


def silent_line(explanations: Sequence[Explanation], *, shown: bool = False, fdr: float = FDR, more: str = "") -> str:
    """Return one line that says how many of some poles are silent, or that it is not known.

    Args:
        explanations: the poles of a table, silent ones too.
        shown: whether the table shows the words of silent poles, with a mark.
        fdr: the false discovery rate.
        more: how to see them, such as ``--all shows them``.
    """
    if any(item.beyond_chance is None for item in explanations):
        return (
            "Not compared with chance: this decomposition has no p-values (it was imported, or made by an earlier "
            "release). Decompose again to see which words are better than chance."
        )
    silent = sum(item.silent for item in explanations)
    are = "is" if silent == 1 else "are"
    mark = f", marked {CHANCE}" if shown and silent else ""
    hint = f"; {more}" if more and silent and not shown else ""
    return (
        f"{silent} of {len(explanations)} poles {are} silent: explained no better than chance (false discovery rate "
        f"{100 * fdr:g} %){mark}{hint}."
    )
