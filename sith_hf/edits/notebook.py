"""Edits as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from sith_hf.core.html import block, html_table
from sith_hf.decomposition import MOST_ROWS
from sith_hf.edits.terms import Terms
from sith_hf.towers import layer_title


def terms_html(terms: Terms) -> Markup:
    """Return the first vectors of an edit of one tower, with their gains and concepts."""
    shown = terms.first_words(MOST_ROWS)
    rows = [
        [layer_title(key[0], terms.base.settings), *key[1:], f"{gain:.3g}", words]
        for key, gain, words in zip(terms.keys, terms.gain.tolist(), shown, strict=False)
    ]
    columns = ["layer", "head", "vector", "gain", "concepts"]
    return block(terms.heading, html_table(columns, rows, more=len(terms) - len(rows)) if rows else "changes nothing")


def specs_html(parts: Iterable[Terms]) -> str:
    """Return the edits of several towers, one below the other."""
    return Markup("").join(map(terms_html, parts))
