"""Datasets of images, decoding, embedding them with several variants of a model in one pass, and their mean."""
