"""``ConceptDictionary``: the concepts of explanations, their embeddings, and the built-in list.

It imports ``towers`` (to encode), ``pursuit`` (for atoms), ``data``, ``hub``, ``files``, ``core`` and ``errors``.
"""

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.concepts.storage import DICTIONARY_LAYOUT
from sith_hf.concepts.texts import position, tidy

__all__ = ["ConceptDictionary", "DICTIONARY_LAYOUT", "position", "tidy"]
