"""Datasets of images, decoding, embedding them with several variants of a model in one pass, and their mean.

It imports ``edits``, ``towers``, ``world``, ``data`` and everything below these.
"""

from sith_hf.images.comparison import edited_copy, model_variants, own_text, private_copy, text_model_of
from sith_hf.images.dataset_settings import Columns, DatasetSettings
from sith_hf.images.datasets import ImageDataset, open_dataset
from sith_hf.images.decode import decode_image
from sith_hf.images.embed import (
    LEAST_IMAGES,
    EmbeddedRows,
    check_count,
    counted_reasons,
    embed_batch,
    embed_rows,
    pixel_values,
    ready,
)
from sith_hf.images.first import check_readable, first_images
from sith_hf.images.held import HeldRows, hold_rows
from sith_hf.images.mean import estimated_mean, is_mean_of, mean_for, mean_of_images, vision_base
from sith_hf.images.model_variant import BASE, EDITED, PARTS, ModelVariant, check_processors, embed_all, share
from sith_hf.images.named import LEAVES, PICTURES, Images, image_dataset, images_named
from sith_hf.images.open_model import OpenModel
from sith_hf.images.pieces import (
    SHARD,
    Piece,
    as_tensor,
    described,
    fingerprint,
    hex_of,
    image_facts,
    in_order,
    missing_pieces,
    number_of,
)
from sith_hf.images.pixel_settings import pixel_settings
from sith_hf.images.pixels import BrokenImage
from sith_hf.images.preprocessing import preprocessing_warning
from sith_hf.images.processor import image_processor

__all__ = [
    "BASE",
    "BrokenImage",
    "Columns",
    "DatasetSettings",
    "EDITED",
    "EmbeddedRows",
    "HeldRows",
    "ImageDataset",
    "Images",
    "LEAVES",
    "LEAST_IMAGES",
    "ModelVariant",
    "OpenModel",
    "PARTS",
    "PICTURES",
    "Piece",
    "SHARD",
    "as_tensor",
    "check_count",
    "check_readable",
    "check_processors",
    "counted_reasons",
    "decode_image",
    "described",
    "edited_copy",
    "embed_all",
    "embed_batch",
    "embed_rows",
    "estimated_mean",
    "fingerprint",
    "first_images",
    "hex_of",
    "hold_rows",
    "image_facts",
    "image_processor",
    "image_dataset",
    "images_named",
    "in_order",
    "is_mean_of",
    "mean_for",
    "mean_of_images",
    "missing_pieces",
    "model_variants",
    "number_of",
    "open_dataset",
    "own_text",
    "pixel_settings",
    "pixel_values",
    "preprocessing_warning",
    "private_copy",
    "ready",
    "share",
    "text_model_of",
    "vision_base",
]
