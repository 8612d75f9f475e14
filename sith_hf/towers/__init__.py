"""Model families: where heads, norms and projections are; loading checkpoints; encoding texts; tensors on disk.

It imports ``hub``, ``files``, ``core`` and ``errors``.
"""

from sith_hf.towers.clip import SUPPORTED, check_family, config_settings, read_tower
from sith_hf.towers.config import UNUSABLE, check_config, read_config
from sith_hf.towers.function import check_function, unwrapped
from sith_hf.towers.image_mean import IMAGE_MEAN_LAYOUT, ImageMean, image_mean_file, read_image_mean
from sith_hf.towers.loading import LoadedModel, checkpoint_path, load_model
from sith_hf.towers.model_settings import text_settings, vision_settings
from sith_hf.towers.offload import loader
from sith_hf.towers.tensor_names import LAYER_PARTS, PROJECTION, tensor_key
from sith_hf.towers.text_encoder import encode_texts, fill_template
from sith_hf.towers.vision_tower import AttentionLayer, VisionTower, check_mean
from sith_hf.towers.weights import CONFIGS, INDEX, Checkpoint, published

__all__ = [
    "AttentionLayer",
    "CONFIGS",
    "Checkpoint",
    "IMAGE_MEAN_LAYOUT",
    "INDEX",
    "ImageMean",
    "LAYER_PARTS",
    "LoadedModel",
    "PROJECTION",
    "SUPPORTED",
    "UNUSABLE",
    "VisionTower",
    "check_config",
    "check_family",
    "check_function",
    "check_mean",
    "checkpoint_path",
    "config_settings",
    "encode_texts",
    "fill_template",
    "image_mean_file",
    "load_model",
    "loader",
    "published",
    "read_config",
    "read_image_mean",
    "read_tower",
    "tensor_key",
    "text_settings",
    "unwrapped",
    "vision_settings",
]
