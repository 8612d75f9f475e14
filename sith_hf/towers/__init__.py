"""Model families: where heads, norms and projections are; loading checkpoints; encoding texts; tensors on disk.

A family has a file of its name; ``family`` says what a file must answer, ``registry`` lists them, and ``refusals`` says
why others are none. They are read with ``tensors`` into a ``tower`` of ``attention`` layers, each with its ``readout``.

``loading`` turns a folder into a model: ``folder_format`` names its files, ``config_file`` and ``config`` read and
check the configuration, ``weights``, ``shard`` and ``disk_names`` the tensors, and ``function`` that the model computes
what they say. ``text_encoder`` embeds texts with a ``text_tower``, faster where ``causal_text`` can.

It imports ``hub``, ``files``, ``core`` and ``errors``.
"""

from sith_hf.towers.attention import AttentionLayer, HeadFactors
from sith_hf.towers.config import check_config
from sith_hf.towers.config_file import CONFIGS, config_json, published, read_config
from sith_hf.towers.evaluating import evaluating
from sith_hf.towers.family import TowerFamily
from sith_hf.towers.folder_format import OPEN_CLIP, folder_format, is_checkpoint
from sith_hf.towers.function import check_parts, unwrapped
from sith_hf.towers.image_mean import IMAGE_MEAN_LAYOUT, ImageMean, image_mean_file, read_image_mean
from sith_hf.towers.loading import LoadedModel, checkpoint_path, load_model
from sith_hf.towers.model_settings import UNUSABLE, layer_title, number_of_layers, tower_settings
from sith_hf.towers.offload import loader
from sith_hf.towers.readout import Norm, Readout
from sith_hf.towers.registry import (
    FAMILIES,
    check_function,
    check_place,
    config_settings,
    family_named,
    family_of,
    family_of_config,
    family_with,
    has_tower,
    partial_layers,
    read_tower,
)
from sith_hf.towers.tensors import tower_tensors
from sith_hf.towers.text_encoder import (
    encode_texts,
    encoder_settings,
    fill_template,
    text_tower,
    text_tower_sha256,
    with_texts,
)
from sith_hf.towers.tower import TOWERS, Tower, check_mean, partial_lines
from sith_hf.towers.weights import INDEX, Checkpoint

__all__ = [
    "AttentionLayer",
    "CONFIGS",
    "Checkpoint",
    "FAMILIES",
    "HeadFactors",
    "IMAGE_MEAN_LAYOUT",
    "INDEX",
    "ImageMean",
    "LoadedModel",
    "Norm",
    "OPEN_CLIP",
    "Readout",
    "TOWERS",
    "Tower",
    "TowerFamily",
    "UNUSABLE",
    "check_config",
    "check_function",
    "check_mean",
    "check_parts",
    "check_place",
    "checkpoint_path",
    "config_json",
    "config_settings",
    "encode_texts",
    "encoder_settings",
    "evaluating",
    "family_named",
    "family_of",
    "family_of_config",
    "family_with",
    "fill_template",
    "folder_format",
    "has_tower",
    "image_mean_file",
    "is_checkpoint",
    "layer_title",
    "load_model",
    "loader",
    "number_of_layers",
    "partial_layers",
    "partial_lines",
    "published",
    "read_config",
    "read_image_mean",
    "read_tower",
    "text_tower",
    "text_tower_sha256",
    "tower_settings",
    "tower_tensors",
    "unwrapped",
    "with_texts",
]
