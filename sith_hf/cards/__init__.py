"""Model cards: the facts they state, the picture they show, and escaping for Markdown.

It imports ``edits`` and everything below.
"""

from sith_hf.cards.card import (
    BEFORE_AFTER_FILE,
    DATA_FILE,
    MAP_FILE,
    TAGS,
    decomposition_card,
    dictionary_card,
    edit_tags,
    model_card,
    picture,
    pictures,
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
    is_repo_name,
    is_wordless,
    silent_poles,
    summary,
    towers_of,
    vector_rows,
)
from sith_hf.cards.headline import headline
from sith_hf.cards.markdown import render
from sith_hf.cards.measured import MOST_BASELINES, collapsed_name
from sith_hf.cards.snippets import CITATION, command
from sith_hf.cards.space import space_card

__all__ = [
    "BEFORE_AFTER_FILE",
    "CITATION",
    "CUT",
    "DATA_FILE",
    "FOLD",
    "MAP_FILE",
    "MOST_BASELINES",
    "TAGS",
    "collapsed_name",
    "command",
    "base_name",
    "config_of",
    "decomposition_card",
    "dictionary_card",
    "edit_setting_rows",
    "edit_tags",
    "explained",
    "headline",
    "hub_base",
    "is_repo_name",
    "is_wordless",
    "model_card",
    "picture",
    "pictures",
    "render",
    "silent_poles",
    "space_card",
    "spec_card",
    "summary",
    "towers_of",
    "vector_rows",
]
