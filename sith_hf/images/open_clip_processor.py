"""The image processor that ``preprocess_cfg`` of an open_clip folder describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError, UnsupportedModel

# What open_clip uses for a key that is missing: the pixels of CLIP's training data.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "random": Image.Resampling.BICUBIC}
_RESAMPLE |= {"bilinear": Image.Resampling.BILINEAR}
_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class OpenClipImageProcessor:
    """An image processor with the pixels of open_clip's transform for evaluation.

    Attributes:
        side: of the images that the model sees.
        image_mean, image_std: of the pixels, from 0 to 1, per channel.
        resample: of Pillow.
        resize_mode: the ``"shortest"`` edge becomes the side, and the rest is cut off; the ``"longest"``, and the rest
            is filled; or ``"squash"`` both.
        fill: the grey value, 0 to 255, of what is filled.
    """

    side: int
    image_mean: tuple[float, ...] = _MEAN
    image_std: tuple[float, ...] = _STD
    resample: Image.Resampling = Image.Resampling.BICUBIC
    resize_mode: str = "shortest"
    fill: int = 0

    @classmethod
    def of(cls, settings: Mapping[str, Any], side: int) -> OpenClipImageProcessor:
        """Read a ``preprocess_cfg``.

        Args:
            settings: its JSON; the defaults of open_clip for keys that are missing.
            side: of the images that the model sees.

        Raises:
            InputError: a value that cannot be used.
            UnsupportedModel: images that are not square.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        size = given.get("size", side)
        if isinstance(size, list) and len(set(map(str, size))) == 1:
            size = size[0]
        if isinstance(size, list):
            raise UnsupportedModel(f"preprocess_cfg has size {_shown(size)}: only square images are supported")
        if size != side:
            raise InputError(
                f"preprocess_cfg has size {_shown(size)}, and the model sees images of {side}: correct one"
            )
        mode = _one_of(given, "resize_mode", _MODES)
        fill = given.get("fill_color", 0)
        if type(fill) is not int or not 0 <= fill <= 255:
            raise InputError(f"preprocess_cfg has fill_color {_shown(fill)}: expected a whole number from 0 to 255")
        resample = _RESAMPLE[_one_of(given, "interpolation", tuple(_RESAMPLE))]
        return cls(side, _three(given, "mean", _MEAN), _three(given, "std", _STD), resample, mode, fill)

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> dict[str, torch.Tensor]:
        """Return ``pixel_values`` ``[B, 3, S, S]`` float32."""
        arrays = [
            np.asarray(self._cut(self._resized(image)).convert("RGB"), dtype=np.float32) / 255 for image in images
        ]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (self.image_mean, self.image_std))
        return {"pixel_values": (pixels - mean) / std}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings under the names of transformers' image processors."""
        shortest = {"shortest_edge": self.side}
        whole = {"height": self.side, "width": self.side}
        return {
            "do_resize": True,
            "size": {"shortest": shortest, "longest": {"longest_edge": self.side}, "squash": whole}[self.resize_mode],
            "resample": int(self.resample),
            "do_center_crop": self.resize_mode == "shortest",
            "crop_size": whole,
            "do_pad": self.resize_mode == "longest",
            "pad_size": whole,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
        }

    def _resized(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.resize_mode == "squash":
            size = (self.side, self.side)
        elif self.resize_mode == "longest":
            ratio = max(width, height) / self.side
            size = (max(1, round(width / ratio)), max(1, round(height / ratio)))
        else:
            short, long = min(width, height), max(width, height)
            other = int(self.side * long / short)
            size = (self.side, other) if width <= height else (other, self.side)
        return image if size == image.size else image.resize(size, self.resample)

    def _cut(self, image: Image.Image) -> Image.Image:
        """Return the square at the centre; what lies outside of the image is filled."""
        width, height = image.size
        left, top = (_start(length, self.side) for length in (width, height))
        if left >= 0 and top >= 0:
            return image.crop((left, top, left + self.side, top + self.side))
        whole = Image.new("RGB", (self.side, self.side), (self.fill,) * 3)
        whole.paste(image, (-left, -top))
        return whole


def _start(length: int, side: int) -> int:
    """Return where the square begins, as torchvision cuts and pads."""
    return round((length - side) / 2) if length >= side else -((side - length) // 2)


def _one_of(given: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
    value = given.get(key, known[0])
    if value not in known:
        raise InputError(f"preprocess_cfg has {key} {_shown(value)}: expected one of {', '.join(known)}")
    return str(value)


def _three(given: Mapping[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    value = given.get(key, default)
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * 3
    numbers = all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in values)
    if len(values) != 3 or not numbers or not np.isfinite(values).all() or (key == "std" and min(values) <= 0):
        raise InputError(f"preprocess_cfg has {key} {_shown(value)}: expected three numbers")
    return tuple(float(item) for item in values)


def _shown(value: object) -> str:
    return sanitize(repr(value), 60)
