"""``report``: an ``Adaptation`` as Markdown; names and concepts are texts from outside, and escaped."""

from __future__ import annotations

from sith_hf.adaptation.adaptation import COMPARED, Adaptation
from sith_hf.cards import render
from sith_hf.core.escaping import shown_name
from sith_hf.core.formatting import fraction
from sith_hf.files import library_versions

# Rows of the longest tables.
TOP = 40


def report(found: Adaptation, base: str, tuned: str, *, picture: str | None = None, top: int = TOP) -> str:
    """Return a Markdown report.

    Args:
        found: the comparison.
        base, tuned: the names of the checkpoints.
        picture: the file name of the heat map beside the report; None without one.
        top: rows of the tables of heads and of words.
    """
    return render(
        "compare.md.j2",
        base=shown_name(base),
        tuned=shown_name(tuned),
        compared=COMPARED,
        tower=found.tower,
        picture=picture,
        close=found.close,
        layers=_shown(found.layer_rows()),
        heads=_shown(found.head_rows(top)),
        more_heads=max(0, len(found.changed) - top),
        words=_shown(found.word_rows(top)),
        explained=found.words is not None,
        silent=found.silent(),
        versions=library_versions(),
    )


def _shown(table: tuple[list[str], list[list[object]]]) -> tuple[list[str], list[list[str]]]:
    columns, rows = table
    return columns, [[fraction(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
