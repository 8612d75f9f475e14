"""Model cards: the facts they state, the picture they show, and escaping for Markdown.

It imports ``edits`` and everything below.
"""

from sith_hf.cards.card import (
    DATA_FILE,
    MAP_FILE,
    TAGS,
    decomposition_card,
    dictionary_card,
    edited_card,
    model_card,
    picture,
    spec_card,
)
from sith_hf.cards.facts import CUT, FOLD, edit_setting_rows, hub_base, summary, vector_rows
from sith_hf.cards.markdown import render
from sith_hf.core.escaping import TOKEN, impersonal, shown_name

__all__ = [
    "CUT",
    "DATA_FILE",
    "FOLD",
    "MAP_FILE",
    "TAGS",
    "TOKEN",
    "decomposition_card",
    "dictionary_card",
    "edit_setting_rows",
    "edited_card",
    "hub_base",
    "impersonal",
    "model_card",
    "picture",
    "render",
    "shown_name",
    "spec_card",
    "summary",
    "vector_rows",
]
