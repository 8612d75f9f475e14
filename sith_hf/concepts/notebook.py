"""A dictionary as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from sith_hf.core.html import block, fact_table, faint, joined, text

# Concepts that are shown.
_SHOWN = 24


def dictionary_html(texts: Sequence[str], facts: Mapping[str, object]) -> str:
    """Return a dictionary as HTML: ``facts`` by name, without those that are None, and its first concepts."""
    shown = [Markup("<bdi>{}</bdi>").format(text(concept, 60)) for concept in texts[:_SHOWN]]
    more = [faint(f"and {len(texts) - _SHOWN:,} more")] if len(texts) > _SHOWN else []
    return block(f"{len(texts):,} concepts", fact_table([*facts.items(), ("concepts", joined([*shown, *more]))]))
