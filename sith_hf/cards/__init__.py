"""Model cards: the facts they state, the picture they show, and escaping for Markdown.

It imports ``edits`` and everything below.
"""

from sith_hf.cards.card import (
    DATA_FILE,
    MAP_FILE,
    TAGS,
    decomposition_card,
    dictionary_card,
    edit_tags,
    model_card,
    picture,
    spec_card,
)
from sith_hf.cards.facts import (
    CUT,
    FOLD,
    base_name,
    config_of,
    edit_setting_rows,
    explained,
    hub_base,
    is_wordless,
    silent_poles,
    summary,
    towers_of,
    vector_rows,
)
from sith_hf.cards.markdown import render
from sith_hf.cards.space import space_card

__all__ = [
    "CUT",
    "DATA_FILE",
    "FOLD",
    "MAP_FILE",
    "TAGS",
    "base_name",
    "config_of",
    "decomposition_card",
    "dictionary_card",
    "edit_setting_rows",
    "edit_tags",
    "explained",
    "hub_base",
    "is_wordless",
    "model_card",
    "picture",
    "render",
    "silent_poles",
    "space_card",
    "spec_card",
    "summary",
    "towers_of",
    "vector_rows",
]
