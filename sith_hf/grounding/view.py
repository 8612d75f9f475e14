"""What a model sees of pictures: its pixel values, and the same as a picture that a person can look at."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.images import ModelVariant, pixel_settings, pixel_values
from sith_hf.towers import family_of


@dataclass(frozen=True, eq=False)
class View:
    """How a model sees pictures.

    Attributes:
        variant: the model.
        embeds: whether it embeds images in a joint space with texts.
        reason: why not.
    """

    variant: ModelVariant
    embeds: bool = True
    reason: str = ""

    @classmethod
    def of(cls, variant: ModelVariant, device: torch.device) -> View:
        """Try a model on a black picture."""
        side = variant.image_size or 224
        pixels = pixel_values(variant, [Image.new("RGB", (side, side))]).to(device)
        try:
            with torch.inference_mode():
                variant.embed(pixels)
        except InputError as error:
            return cls(variant, False, str(error))
        return cls(variant)

    def pixels(self, pictures: Sequence[Any]) -> Tensor:
        """Return the pixel values of decoded pictures, ``[B, 3, S, S]`` on the CPU."""
        return pixel_values(self.variant, list(pictures))

    def embed(self, pixels: Tensor) -> Tensor:
        """Run the model; return normalised embeddings ``[B, P]`` on the CPU, with P = 0 if it has none."""
        if self.embeds:
            return self.variant.embed(pixels).cpu()
        tower, _ = family_of(self.variant.model).locate(self.variant.model, "vision")
        tower(pixel_values=pixels.to(next(tower.parameters()).dtype))
        return torch.zeros(len(pixels), 0)

    def picture(self, pixels: Tensor) -> bytes:
        """Return pixel values ``[3, H, W]`` as a PNG file: resized and cropped as the model sees them."""
        scale, mean, std = self._scaling
        bytes_of = ((pixels.cpu().double() * std + mean) / scale).round().clamp(0, 255).to(torch.uint8)
        file = io.BytesIO()
        Image.fromarray(bytes_of.permute(1, 2, 0).numpy()).save(file, format="PNG", compress_level=1)
        return file.getvalue()

    def again(self, pictures: Sequence[bytes]) -> Tensor:
        """Return the pixel values of files of :meth:`picture`, ``[B, 3, H, W]`` float32: the same up to rounding."""
        scale, mean, std = self._scaling
        arrays = np.stack([np.asarray(opened(file)) for file in pictures])
        return ((torch.from_numpy(arrays).permute(0, 3, 1, 2).double() * scale - mean) / std).float()

    @property
    def _scaling(self) -> tuple[float, Tensor, Tensor]:
        """The image processor's factor, and its mean and deviation as ``[3, 1, 1]``."""
        found = {name.rpartition(" ")[2]: value for name, value in pixel_settings(self.variant.processor).items()}

        def channels(value: Any) -> Tensor:
            return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1)

        return (
            float(found.get("rescale_factor", 1)),
            channels(found.get("image_mean", 0.0)),
            channels(found.get("image_std", 1.0)),
        )


def opened(file: bytes) -> Image.Image:
    """Return the picture in a file of :meth:`View.picture`."""
    return Image.open(io.BytesIO(file)).convert("RGB")
