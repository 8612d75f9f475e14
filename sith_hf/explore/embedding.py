"""The embedding of a text that a reader types: from the explanations, the dictionary beside them, or the model."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache

from torch import Tensor

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import sanitize
from sith_hf.decomposition import dictionary_beside
from sith_hf.errors import ArtifactError, InputError
from sith_hf.explore.explorer import Explorer

ENCODED = "encoded by the model"


def embedding_of(explorer: Explorer, concept: str) -> tuple[Tensor, str]:
    """Return the embedding of a concept, ``[P]``, not centred, and where it is from.

    Raises:
        InputError: no explanation and no dictionary has it, and there is no model to encode it, or one without texts.
    """
    found = explorer.decomposition
    found.require_words()
    if found.has(concept):
        return found.embedding_of(concept), "a concept of the explanations"
    dictionary = _dictionary(explorer)
    known = None if dictionary is None else dictionary.embedding_of(concept)
    if known is not None:
        return known, "a concept of the dictionary, in no explanation"
    if explorer.model is None:
        raise InputError(
            f"{sanitize(concept)} is no concept of this decomposition, and only its model can encode other texts: "
            "start again with --model"
        )
    with explorer.running():
        return explorer.editor.embed(concept)[concept], ENCODED


@lru_cache(maxsize=1000)
def meant_by(explorer: Explorer, concept: str) -> str:
    """Return the concept of the explanations that is spelled most like another text; empty if none is."""
    known = {text.casefold(): text for text in explorer.decomposition.texts}
    close = get_close_matches(concept.casefold(), known, n=1, cutoff=0.75)
    return known[close[0]] if close else ""


@lru_cache(maxsize=4)
def _dictionary(explorer: Explorer) -> ConceptDictionary | None:
    try:
        return dictionary_beside(explorer.source, explorer.decomposition)
    except ArtifactError:
        return None  # the page works without it
