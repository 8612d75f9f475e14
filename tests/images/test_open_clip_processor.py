"""The image processor of open_clip folders: resizing modes by hand, fingerprints, bad settings."""

import numpy as np
import pytest
import torch
from PIL import Image

from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.images.open_clip_processor import OpenClipImageProcessor
from sith_hf.images.pixel_settings import pixel_settings

GREY = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


def ramp(height, width):
    """A picture whose red is the column and whose green is the row."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return Image.fromarray(pixels)


def processed(picture, **settings):
    found = OpenClipImageProcessor.of({**GREY, **settings}, 8)([picture])["pixel_values"]
    assert found.shape == (1, 3, 8, 8)
    assert found.dtype == torch.float32
    return (found[0] * 255).round().int()


class TestModes:
    @pytest.mark.parametrize(("width", "start"), [(8, 0), (9, 0), (10, 1), (11, 2), (13, 2), (15, 4)])
    def test_shortest_cuts_the_middle_as_torchvision_rounds_it(self, width, start):
        found = processed(ramp(8, width))
        assert found[0, 0].tolist() == list(range(start, start + 8))

    def test_longest_fills_the_rest(self):
        found = processed(ramp(3, 8), resize_mode="longest", fill_color=77)
        assert found[1].tolist() == [[77] * 8] * 2 + [[n] * 8 for n in range(3)] + [[77] * 8] * 3

    def test_squash_keeps_all(self):
        found = processed(ramp(8, 200), resize_mode="squash")
        assert found[0, 0, 0] < 30
        assert found[0, 0, -1] > 170

    def test_the_kind_of_interpolation_matters(self):
        assert not torch.equal(processed(ramp(30, 41)), processed(ramp(30, 41), interpolation="bilinear"))

    def test_grey_and_transparent_pictures_become_rgb(self):
        assert processed(Image.new("L", (8, 8), 9)).unique().tolist() == [9]
        assert processed(Image.new("RGBA", (8, 8), (9, 9, 9, 0))).unique().tolist() == [9]


class TestSettings:
    def test_missing_keys_are_those_of_clip(self):
        found = OpenClipImageProcessor.of({}, 224)
        assert found.image_mean == (0.48145466, 0.4578275, 0.40821073)
        assert (found.resize_mode, found.resample) == ("shortest", Image.Resampling.BICUBIC)

    @pytest.mark.parametrize("other", [{"mean": 0.1}, {"interpolation": "bilinear"}, {"resize_mode": "squash"}])
    def test_each_setting_is_in_the_fingerprint(self, other):
        base = OpenClipImageProcessor.of(GREY, 8)
        assert pixel_settings(base) == pixel_settings(OpenClipImageProcessor.of(dict(GREY), 8))
        assert pixel_settings(base) != pixel_settings(OpenClipImageProcessor.of({**GREY, **other}, 8))

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"size": 9}, "size 9, and the model sees images of 8"),
            ({"size": "big"}, "size 'big'"),
            ({"mean": [0.5]}, "mean"),
            ({"std": [0.1, 0.0, 0.1]}, "std"),
            ({"mean": ["a", "b", "c"]}, "mean"),
            ({"resize_mode": "fit"}, "resize_mode 'fit': expected one of shortest"),
            ({"interpolation": "nearest"}, "interpolation 'nearest'"),
            ({"resize_mode": []}, "resize_mode"),
            ({"fill_color": 300}, "fill_color 300"),
        ],
    )
    def test_bad_values_are_named(self, settings, match):
        with pytest.raises(InputError, match=match):
            OpenClipImageProcessor.of({**GREY, **settings}, 8)

    def test_images_that_are_not_square_are_refused(self):
        with pytest.raises(UnsupportedModel, match="square"):
            OpenClipImageProcessor.of({"size": [8, 12]}, 8)
