"""Model cards of edited checkpoints."""

from __future__ import annotations

from sith_hf.edits import EditSpec
from sith_hf.templates import render


def edited_card(spec: EditSpec) -> str:
    """A short account of an edit in Markdown: what was changed, and how to check and revert it."""
    return render("edited_checkpoint.md.j2", spec=spec, rows=spec.rows())
