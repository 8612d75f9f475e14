"""Datasets of images, decoding, embedding them with several variants of a model in one pass, and their mean.

It imports ``edits``, ``towers``, ``world``, ``data`` and everything below these.
"""

from sith_hf.images.comparison import model_variants, own_text, text_model_of
from sith_hf.images.dataset_settings import Columns, DatasetSettings
from sith_hf.images.datasets import ImageDataset, open_dataset
from sith_hf.images.embed import EmbeddedRows, embed_rows, ready
from sith_hf.images.held import HeldRows, hold_rows
from sith_hf.images.mean import estimated_mean, is_mean_of, mean_for, mean_of_images
from sith_hf.images.model_variant import BASE, EDITED, PARTS, ModelVariant, check_processors, share
from sith_hf.images.open_model import OpenModel
from sith_hf.images.preprocessing import preprocessing_warning
from sith_hf.images.processor import image_processor

__all__ = [
    "BASE",
    "Columns",
    "DatasetSettings",
    "EDITED",
    "EmbeddedRows",
    "HeldRows",
    "ImageDataset",
    "ModelVariant",
    "OpenModel",
    "PARTS",
    "check_processors",
    "embed_rows",
    "estimated_mean",
    "hold_rows",
    "is_mean_of",
    "image_processor",
    "mean_for",
    "mean_of_images",
    "model_variants",
    "open_dataset",
    "own_text",
    "preprocessing_warning",
    "ready",
    "share",
    "text_model_of",
]
