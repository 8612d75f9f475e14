"""The classes of models and of configurations by name: those of transformers, and ours for files of open_clip."""

from __future__ import annotations

from typing import Any

from sith_hf.towers.open_clip_config import ARCHITECTURE, MODEL_TYPE

# Packages whose classes compute what their parameters and configuration say.
TRUSTED = ("transformers.models.", "sith_hf.towers.")


def model_class(architecture: str) -> Any:
    """Return the class of a model."""
    if architecture == ARCHITECTURE:
        from sith_hf.towers.open_clip_model import OpenClipModel

        return OpenClipModel
    import transformers

    return getattr(transformers, architecture)


def config_class(model_type: str) -> Any:
    """Return the class of a configuration."""
    if model_type == MODEL_TYPE:
        from sith_hf.towers.open_clip_model import OpenClipConfig

        return OpenClipConfig
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]
