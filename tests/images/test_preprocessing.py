"""A checkpoint whose config names other pixels than it was trained on is reported."""

from __future__ import annotations

import pytest
from transformers import CLIPImageProcessor

from sith_hf.images import preprocessing_warning

NAME = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
HALF = [0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", [NAME, NAME.lower(), f"/data/{NAME}/", "CLIP-ViT-L-14-laion2B-s32B-b82K"])
def test_a_known_checkpoint_with_other_pixels_is_reported(name: str) -> None:
    found = preprocessing_warning(name, CLIPImageProcessor())
    assert found is not None
    assert "mean 0.5 and std 0.5" in found
    assert "0.481" in found
    assert preprocessing_warning(name, CLIPImageProcessor(image_mean=HALF, image_std=HALF)) is None
    assert preprocessing_warning(name, CLIPImageProcessor(image_mean=HALF)) is not None


@pytest.mark.parametrize("name", ["openai/clip-vit-large-patch14", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "", "/"])
def test_other_checkpoints_are_not(name: str) -> None:
    assert preprocessing_warning(name, CLIPImageProcessor()) is None
