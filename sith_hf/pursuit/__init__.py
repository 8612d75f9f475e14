"""Sparse coding of vectors over a dictionary: tensors in, tensors out."""
