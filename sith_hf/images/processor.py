"""Load the image processor of a checkpoint: whichever ``AutoImageProcessor`` finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sith_hf.core.escaping import one_line
from sith_hf.core.reading import read_json_object
from sith_hf.errors import InputError
from sith_hf.towers import UNUSABLE, LoadedModel, family_of

# CLIPProcessor of transformers 5 saves one file for image processor and tokenizer; earlier releases saved the first.
COMBINED, OWN = "processor_config.json", "preprocessor_config.json"

_ADVICE = "copy this file from the base model"
# The largest side, in pixels, to which an image is resized: a model sees less, and memory grows with its square.
_LARGEST = 4096
# The side of the image that a processor is tried on, for a model that takes images of any size.
_ANY = 224


def image_processor(*models: LoadedModel | None) -> Any:
    """Load the image processor from the folder of the first of ``models`` that has one. No code of the folder runs.

    Raises:
        InputError: no folder has one, or it cannot be used.
        UnsupportedModel: the model takes no images of one size.
    """
    present = [model for model in models if model is not None]
    for model in present:
        if model.folder is not None and (file := _settings_file(model.folder)) is not None:
            side = family_of(model.model).image_size(model.model)
            try:
                return _tried(_load(model.folder), side)
            except UNUSABLE as error:
                raise InputError(f"{model.name}: {file} cannot be used ({one_line(error)}): {_ADVICE}") from None
    raise InputError(
        f"{present[0].name} has no {COMBINED} or {OWN} with the settings of its image processor: copy that file from "
        "the base model into this folder, or pass processor="
    )


def _settings_file(folder: Path) -> str | None:
    """Return the name of the file that ``AutoImageProcessor`` reads; None without one. Raises InputError for damage."""
    found = {name: read_json_object(folder / name, _ADVICE) for name in (COMBINED, OWN) if (folder / name).is_file()}
    if "image_processor" in found.get(COMBINED, {}):
        return COMBINED
    return OWN if OWN in found else None


def _load(folder: Path) -> Any:
    from transformers import AutoImageProcessor
    from transformers.utils import logging

    # transformers would advise to install torchvision, which would change pixels and so results.
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    finally:
        logging.set_verbosity(level)


def _tried(processor: Any, side: int | None) -> Any:
    """Return ``processor`` after it has processed a black image. Raises ValueError, or what it raises."""
    side = side or _ANY
    for key in ("size", "crop_size"):
        for pixels in _numbers(processor.to_dict().get(key)):
            if not 1 <= pixels <= _LARGEST:
                raise ValueError(f"{key} has {pixels} pixels; expected 1 to {_LARGEST}")
    image = Image.new("RGB", (side + 1, side + 2))  # of a size that is changed
    with np.errstate(all="ignore"):
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
    if not torch.isfinite(pixels).all():
        raise ValueError("a black image gets values that are not finite")
    return processor


def _numbers(size: Any) -> Iterator[float]:
    values = size.values() if isinstance(size, Mapping) else [size]
    yield from (value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool))
