"""Datasets of images, decoding, embedding them with several variants of a model in one pass, and their mean.

It imports ``editor`` and everything below.
"""

from sith_hf.images.comparison import Comparison, model_variants, text_model_of
from sith_hf.images.dataset_settings import Columns, DatasetSettings
from sith_hf.images.datasets import ImageDataset, open_dataset
from sith_hf.images.embed import EmbeddedRows, embed_rows
from sith_hf.images.mean import estimated_mean, is_mean_of, mean_for, mean_of_images
from sith_hf.images.model_variant import BASE, EDITED, PARTS, ModelVariant, check_processors
from sith_hf.images.preprocessing import preprocessing_warning

__all__ = [
    "BASE",
    "Columns",
    "Comparison",
    "DatasetSettings",
    "EDITED",
    "EmbeddedRows",
    "ImageDataset",
    "ModelVariant",
    "PARTS",
    "check_processors",
    "embed_rows",
    "estimated_mean",
    "is_mean_of",
    "mean_for",
    "mean_of_images",
    "model_variants",
    "open_dataset",
    "preprocessing_warning",
    "text_model_of",
]
