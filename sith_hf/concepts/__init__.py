"""Concepts: texts, their embeddings as a ``ConceptDictionary``, and the built-in list."""
