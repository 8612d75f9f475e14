"""The images of a head while the model is used elsewhere."""

from dataclasses import replace
from importlib import import_module
from threading import Thread

import pytest
import torch
from PIL import Image

from sith_hf.explore.found_images import FoundImages
from sith_hf.explore.picture_view import compare_grid
from sith_hf.images import LEAST_IMAGES, ModelVariant

pytest_plugins = ["tests.support.explored"]

EXPLORER = import_module("sith_hf.explore.explorer")


class TestAtTheSameTime:
    def test_pictures_that_are_compared_meanwhile_are_not_counted(self, with_model, monkeypatch, tmp_path):
        for number in range(LEAST_IMAGES + 8):
            Image.new("RGB", (8, 8), (6 * number, 255 - 5 * number, 40)).save(tmp_path / f"{number:02}.png")
        explorer = replace(with_model, images=str(tmp_path))
        layer = explorer.decomposition.layers[-1]
        alone = FoundImages(explorer)
        alone.look(layer, 0, (0,))
        assert alone.known(layer, 0, (0,)), alone.failed(layer, 0, (0,))
        embed, passes, meanwhile = ModelVariant.embed, [], []

        def interrupted(variant, pixels):
            passes.append(None)
            if len(passes) == 3:  # in the middle of the pass, another click compares pictures
                meanwhile.append(compare_grid(explorer, None, ("boat", "bird")))
            return embed(variant, pixels)

        monkeypatch.setattr(ModelVariant, "embed", interrupted)
        both = FoundImages(explorer)
        both.look(layer, 0, (0,))
        assert len(meanwhile) == 1, "the control: pictures were compared"
        assert both.known(layer, 0, (0,)) == alone.known(layer, 0, (0,)), both.failed(layer, 0, (0,))

    @pytest.mark.parametrize(("device", "waits"), [("cpu", False), ("cuda", True)])
    def test_only_a_model_that_moves_is_run_by_one_thread_at_a_time(self, with_model, monkeypatch, device, waits):
        explorer = replace(with_model)
        assert explorer.editor
        monkeypatch.setattr(EXPLORER, "pass_device", lambda chosen: torch.device(device))
        entered = []

        def other():
            with explorer.running():
                entered.append(True)

        thread = Thread(target=other)
        with explorer.running():
            thread.start()
            thread.join(0.5 if waits else 30)
            assert bool(entered) is not waits
        thread.join(30)
        assert entered == [True]
