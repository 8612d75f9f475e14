"""Model cards: the facts they state, the code and the picture they show, and text made harmless in Markdown.

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
from sith_hf.cards.facts import CUT, FOLD, hub_base, setting_rows, shown_name, summary, vector_rows
from sith_hf.cards.markdown import TOKEN, impersonal, render

__all__ = [
    "CUT",
    "DATA_FILE",
    "FOLD",
    "MAP_FILE",
    "TAGS",
    "TOKEN",
    "decomposition_card",
    "dictionary_card",
    "edited_card",
    "hub_base",
    "impersonal",
    "model_card",
    "picture",
    "render",
    "setting_rows",
    "shown_name",
    "spec_card",
    "summary",
    "vector_rows",
]
