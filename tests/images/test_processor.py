"""Image processors: what AutoImageProcessor finds is used, and damaged settings are refused in one line."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPProcessor

from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.images import DatasetSettings, mean_of_images
from sith_hf.images.processor import image_processor
from sith_hf.towers import load_model
from tests.support.tiny import byte_tokenizer, save_clip
from tests.support.tiny import image_processor as tiny_processor

COMBINED, OWN = "processor_config.json", "preprocessor_config.json"
LEGACY = {
    "crop_size": 16, "size": 16, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3,
    "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25],
}  # fmt: skip
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A checkpoint without an image processor."""
    return save_clip(tmp_path_factory.mktemp("processor") / "clip", seed=41)


@pytest.fixture
def folder(bare, tmp_path):
    """A checkpoint saved by CLIPProcessor of transformers 5: one file for image processor and tokenizer."""
    copied = shutil.copytree(bare, tmp_path / "clip")
    CLIPProcessor(tiny_processor(), byte_tokenizer(tmp_path / "bytes")).save_pretrained(copied)
    assert (copied / COMBINED).exists()
    assert not (copied / OWN).exists()
    return copied


def settings(folder, name, **changes):
    """Write ``preprocessor_config.json`` of an earlier release, or change the settings in either file."""
    if name == OWN:
        (folder / COMBINED).unlink()
        (folder / OWN).write_text(json.dumps({**LEGACY, **changes}))
    else:
        data = json.loads((folder / COMBINED).read_text())
        data["image_processor"].update(changes)
        (folder / COMBINED).write_text(json.dumps(data))


def refused(folder):
    with pytest.raises(InputError) as caught:
        image_processor(load_model(str(folder)))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def pixels(processor):
    drawn = np.random.default_rng(0).integers(0, 255, (30, 20, 3), dtype=np.uint8)
    return processor(images=[Image.fromarray(drawn)], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"feature_extractor_type": "CLIPFeatureExtractor"},
        {"image_processor_type": "CLIPImageProcessorFast"},
        {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}},
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}},
        {"do_convert_rgb": True, "resample": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [COMBINED, OWN])
def test_the_pixels_of_transformers(name, changes, folder):
    settings(folder, name, **changes)
    ours = pixels(image_processor(load_model(str(folder))))
    assert torch.equal(ours, pixels(AutoImageProcessor.from_pretrained(folder)))
    assert ours.shape == (1, 3, 16, 16)
    # The control: settings that transformers would not read from this folder.
    assert not torch.equal(ours, pixels(AutoImageProcessor.from_pretrained(folder, image_mean=[0, 0, 0])))


def test_settings_inside_the_combined_file_come_first(folder):
    wanted = pixels(image_processor(load_model(str(folder))))
    (folder / OWN).write_text(json.dumps({**LEGACY, "image_mean": [0, 0, 0]}))
    assert torch.equal(pixels(image_processor(load_model(str(folder)))), wanted)
    # A combined file of an earlier release holds the name of a class only.
    (folder / COMBINED).write_text('{"processor_class": "CLIPProcessor"}')
    assert not torch.equal(pixels(image_processor(load_model(str(folder)))), wanted)


def test_images_of_a_folder_that_transformers_5_saved(folder, tmp_path):
    (tmp_path / "pictures" / "a").mkdir(parents=True)
    drawn = np.random.default_rng(1).integers(0, 255, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "pictures" / "a" / "1.png")
    editor = SithEditor.from_pretrained(folder)
    found = mean_of_images(editor, DatasetSettings(dataset=str(tmp_path / "pictures"))).image_mean
    inputs = AutoImageProcessor.from_pretrained(folder)(images=[Image.fromarray(drawn)], return_tensors="pt")
    with torch.no_grad():
        expected = editor.model.get_image_features(**inputs).pooler_output[0]
    unit = torch.nn.functional.normalize(expected.double(), dim=-1)
    torch.testing.assert_close(found.double(), unit, atol=1e-6, rtol=0)


def test_without_settings(bare, folder):
    assert f"{bare} has no processor_config.json or preprocessor_config.json" in refused(bare)
    (folder / COMBINED).write_text('{"processor_class": "CLIPProcessor"}')
    assert f"{folder} has no processor_config.json or preprocessor_config.json" in refused(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", LFS, "[" * 100_000], ids=lambda text: text[:8])
@pytest.mark.parametrize("name", [COMBINED, OWN])
def test_a_file_that_is_no_object(name, content, folder):
    settings(folder, name)
    (folder / name).write_text(content)
    message = refused(folder)
    assert f"{folder / name}: it " in message
    assert ("git lfs pull" in message) == (content == LFS)


@pytest.mark.parametrize(
    "change",
    [
        {"size": "x"},
        {"size": None},
        {"size": {"shortest_edge": "16"}},
        {"size": {"shortest_edge": 10**9}},
        {"size": {"shortest_edge": -1}},
        {"crop_size": 10**9},
        {"crop_size": 0},
        {"image_mean": "x"},
        {"image_mean": [1]},
        {"image_mean": None},
        {"image_std": [0, 0, 0]},
        {"rescale_factor": "x"},
        {"resample": 99},
        {"image_processor_type": "Nope"},
        {"image_processor_type": 5},
        {"auto_map": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [COMBINED, OWN])
@pytest.mark.filterwarnings("error")
def test_settings_of_wrong_types(name, change, folder):
    settings(folder, name, **change)
    assert f"{name} cannot be used (" in refused(folder)


@pytest.mark.parametrize("value", [5, [], None, "x"], ids=str)
def test_a_combined_file_of_a_wrong_type(value, folder):
    (folder / COMBINED).write_text(json.dumps({"image_processor": value}))
    assert f"{COMBINED} cannot be used (" in refused(folder)


@pytest.mark.parametrize("name", [COMBINED, OWN])
def test_code_beside_it_never_runs(name, folder, tmp_path, monkeypatch):
    settings(folder, name, auto_map={"AutoImageProcessor": "evil.P", "AutoProcessor": "evil.P"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr(sys, "stdin", None)  # a question would fail
    assert pixels(image_processor(load_model(str(folder)))).shape == (1, 3, 16, 16)
    assert not (tmp_path / "ran").exists()
