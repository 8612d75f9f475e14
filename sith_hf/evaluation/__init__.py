"""Evaluation: base and edited models on the same images, with how sure one may be of each difference."""
