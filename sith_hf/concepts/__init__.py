"""``ConceptDictionary``: the texts that explanations are made of, their embeddings, and the built-in list.

It imports ``pursuit`` (for atoms), ``towers`` (for encoding) and what those import.
"""

from sith_hf.concepts.dictionary import DICTIONARY_LAYOUT, ConceptDictionary, centred, position, tidy

__all__ = ["ConceptDictionary", "DICTIONARY_LAYOUT", "centred", "position", "tidy"]
