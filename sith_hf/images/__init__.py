"""Datasets of images, decoding, embedding them with several variants of a model in one pass, and their mean.

It imports ``editor`` and everything below.
"""

from sith_hf.images.data import Columns, Data
from sith_hf.images.datasets import Source, open_data
from sith_hf.images.embed import Check, Embedded, embed_rows
from sith_hf.images.mean import estimated_mean, mean_of_images
from sith_hf.images.variant import BASE, ModelVariant
from sith_hf.images.variants import EDITED, Comparison, model_variants, text_of

__all__ = [
    "BASE",
    "Check",
    "Columns",
    "Comparison",
    "Data",
    "EDITED",
    "Embedded",
    "ModelVariant",
    "Source",
    "embed_rows",
    "estimated_mean",
    "mean_of_images",
    "model_variants",
    "open_data",
    "text_of",
]
