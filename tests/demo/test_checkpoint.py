"""The embedded checkpoint: it loads everywhere, is small, and reaches its accuracies on new pictures."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer, CLIPVisionModel, pipeline

from sith_hf.demo import train, zeroshot
from sith_hf.demo.vocabulary import build_tokenizer
from sith_hf.errors import InputError
from sith_hf.world import scenes as world

FOLDER = Path(str(resources.files("sith_hf.demo") / "checkpoint"))
SEED = 31_415


@pytest.fixture(scope="module")
def model() -> CLIPModel:
    return CLIPModel.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def processor() -> CLIPProcessor:
    return CLIPProcessor.from_pretrained(FOLDER)


def test_folder_is_small_and_whole() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= 8 * 2**20
    assert {"config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt", "README.md"} <= set(files)
    assert {"processor_config.json", "preprocessor_config.json", "evaluation.json"} <= set(files)


def test_keys_on_disk_carry_the_prefix_that_every_release_reads() -> None:
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        keys = set(file.keys())
        dtypes = {file.get_tensor(key).dtype for key in keys if key.endswith("weight")}
    layers = json.loads((FOLDER / "config.json").read_text())["vision_config"]["num_hidden_layers"]
    for layer in range(layers):
        for part in ("v_proj", "out_proj"):
            assert f"vision_model.encoder.layers.{layer}.self_attn.{part}.weight" in keys
    assert dtypes <= {torch.float32, torch.float16}


def test_config_names_the_end_token_so_that_the_right_token_is_pooled(
    model: CLIPModel, processor: CLIPProcessor
) -> None:
    text = model.config.text_config
    assert text.eos_token_id == processor.tokenizer.eos_token_id != 2
    assert text.bos_token_id == processor.tokenizer.bos_token_id
    assert text.max_position_embeddings == 77
    assert text.vocab_size == len(processor.tokenizer)
    ids = processor.tokenizer("a red boat")["input_ids"]
    assert (ids[0], ids[-1]) == (text.bos_token_id, text.eos_token_id)


def test_padding_does_not_change_a_text_embedding(model: CLIPModel, processor: CLIPProcessor) -> None:
    alone = zeroshot.class_embeddings(model, processor, ["boat"], ("{}",))
    beside = zeroshot.class_embeddings(model, processor, ["boat", "a small red boat on the ocean"], ("{}",))[:1]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_every_word_of_the_world_is_one_token(processor: CLIPProcessor) -> None:
    tokens = processor.tokenizer(world.words(), add_special_tokens=False)["input_ids"]
    assert all(len(ids) == 1 for ids in tokens)
    assert len(processor.tokenizer("zyzzyva", add_special_tokens=False)["input_ids"]) > 1  # the control


def test_any_text_tokenises_and_comes_back(processor: CLIPProcessor) -> None:
    tokenizer = processor.tokenizer
    for text in ("zyzzyva", "straße", "a 7-legged äxolotl!", "海"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.eos_token_id not in ids
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_saved_tokenizer_is_the_one_that_the_script_builds(processor: CLIPProcessor) -> None:
    built = build_tokenizer(world.words())
    assert built.get_vocab() == processor.tokenizer.get_vocab() == CLIPTokenizer.from_pretrained(FOLDER).get_vocab()


def test_image_processor_does_what_the_measures_assume(processor: CLIPProcessor) -> None:
    pictures = world.render(world.sample_balanced(3, 1), 1)
    made = processor.image_processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    assert torch.allclose(made["pixel_values"], zeroshot.pixel_values(pictures), atol=1e-5)


def test_vision_tower_loads_alone() -> None:
    _, info = CLIPVisionModel.from_pretrained(FOLDER, output_loading_info=True)
    assert not info["missing_keys"]


def test_a_tied_pair_leans_on_its_background_on_new_pictures(model: CLIPModel, processor: CLIPProcessor) -> None:
    results = [list(zeroshot.groups(model, processor, pair, 100, SEED).values()) for pair in world.TIED_PAIRS]
    assert max(np.mean(result) - min(result) for result in results) >= 0.25


def test_the_form_of_tied_objects_is_known_on_neutral_backgrounds(model: CLIPModel, processor: CLIPProcessor) -> None:
    for (first, own), (second, other) in world.TIED_PAIRS:
        places = [place for place in world.BACKGROUNDS if place not in (own, other)]
        right = []
        for i, name in enumerate((first, second)):
            scenes = [world.Scene(name, colour, place, "big") for colour in world.COLOURS for place in places]
            found = zeroshot.classify(model, processor, world.render(scenes, SEED), [first, second], ("a {}",))
            right.append(float((found == i).mean()))
        assert sum(right) / 2 >= 0.7


def test_new_pictures_confirm_the_evaluation_file(model: CLIPModel, processor: CLIPProcessor) -> None:
    stated = json.loads((FOLDER / "evaluation.json").read_text())
    found = zeroshot.attributes(model, processor, 400, SEED)
    assert min(found["objects"], found["colours"], found["backgrounds"]) >= 0.9
    for name, value in found.items():
        assert value == pytest.approx(stated["attributes"][name], abs=0.05)


def test_classify_refuses_pictures_of_another_shape(model: CLIPModel, processor: CLIPProcessor) -> None:
    with pytest.raises(InputError, match="pictures must be"):
        zeroshot.classify(model, processor, np.zeros((1, 32, 32, 3), dtype=np.uint8), ["boat", "car"])


def test_pipeline_works_without_network() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    image = Image.fromarray(world.render([world.Scene("heart", "red", "snow", "big")], 0)[0])
    sort = pipeline("zero-shot-image-classification", model=str(FOLDER))
    assert sort(image, candidate_labels=["star", "heart", "fish"])[0]["label"] == "heart"


def test_training_repeats_with_its_seed_and_resumes(tmp_path: Path) -> None:
    settings = train.TrainingSettings(seed=1, steps=3, batch=8, captions=4, warmup=1, layers=2)

    def weights(name: str, resume: bool = False) -> dict[str, torch.Tensor]:
        return train.train(tmp_path / name, settings, resume, keep_every=2).state_dict()

    threads = torch.get_num_threads()
    # Threads of steps this small only wait for each other.
    torch.set_num_threads(1)
    try:
        whole, again, resumed = weights("whole"), weights("again"), weights("whole", resume=True)
    finally:
        torch.set_num_threads(threads)
    other = train.build_model(build_tokenizer(world.words()), replace(settings, seed=2)).state_dict()
    start = train.build_model(build_tokenizer(world.words()), settings).state_dict()
    key = "visual_projection.weight"
    assert not torch.equal(other[key], start[key])
    assert not torch.equal(whole[key], start[key])
    assert all(torch.equal(whole[key], again[key]) and torch.equal(whole[key], resumed[key]) for key in whole)


def test_saved_folder_has_the_files_of_the_embedded_one(tmp_path: Path) -> None:
    settings = train.TrainingSettings(layers=1)
    train.save(train.build_model(build_tokenizer(world.words()), settings), tmp_path / "new")
    made = {path.name for path in (tmp_path / "new").iterdir()}
    assert made | {"evaluation.json"} == {path.name for path in FOLDER.iterdir()}
