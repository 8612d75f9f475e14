"""The mean image embedding as a file: one vector that closes the gap between images and texts (METHOD.md sec. 3)."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sith_hf.errors import InputError


def read_image_mean(path: Path) -> Tensor:
    """The tensor ``image_mean``, ``[P]``, of a safetensors file. Raises InputError when it is not there."""
    try:
        return load_file(path)["image_mean"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: expected a safetensors file with a tensor named image_mean ({error})") from None
