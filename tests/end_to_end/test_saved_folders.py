"""Folders as transformers, its Trainer and sentence-transformers save them: every command ends in the right number."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, CLIPModel, CLIPProcessor, Trainer, TrainingArguments

from sith_hf.concepts import ConceptDictionary
from tests.support.cli import refused, sith, succeeded
from tests.support.raw import read_raw
from tests.support.tiny import byte_tokenizer, clip_model, image_processor, projected_vision_model
from tests.support.tokenizers import TOKENIZERS, by_transformers, checkpoint_with

CONCEPTS = ("boat", "car", "dog", "ocean", "red", "sand", "a green road", "night")


@pytest.fixture(scope="module", autouse=True)
def work(tmp_path_factory):
    """A folder with concepts and pictures, as the current one."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "concepts.txt").write_text("\n".join(CONCEPTS))
    drawn = np.random.default_rng(0).integers(0, 255, (6, 30, 20, 3), dtype=np.uint8)
    for number, picture in enumerate(drawn):
        place = folder / "pictures" / ("boat" if number % 2 else "car")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def today(folder):
    """What transformers 5 saves: one file for all of the processor."""
    clip_model().save_pretrained(folder)
    CLIPProcessor(image_processor(), byte_tokenizer(folder / "old")).save_pretrained(folder)
    shutil.rmtree(folder / "old")
    return folder


def of_2021(folder):
    """A folder of 2021: files of a vocabulary, an integer as size, and an end token that means the largest."""
    clip_model().half().save_pretrained(folder)
    byte_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    settings = {"do_resize": True, "size": 16, "resample": 3, "do_center_crop": True, "crop_size": 16}
    settings |= {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3]}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "CLIPFeatureExtractor", **settings})
    )
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    config |= {"torch_dtype": "float16", "text_config_dict": None, "vision_config_dict": None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Pictures(torch.utils.data.Dataset):
    """Pictures of one colour with a caption."""

    def __len__(self):
        return 4

    def __getitem__(self, number):
        pixels = image_processor()(images=[Image.new("RGB", (16, 16), (60 * number, 0, 0))], return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"][0], "input_ids": torch.tensor([512, 300 + number, 513])}


class Contrastive(Trainer):
    """A trainer of CLIP."""

    def compute_loss(self, model, inputs, **_):
        return model(**inputs, return_loss=True).loss


def trained(folder):
    """The output folder of Trainer, with pickles and a checkpoint of an earlier step below it."""
    processor = CLIPProcessor.from_pretrained(today(folder.with_name("start")))
    settings = TrainingArguments(
        str(folder), max_steps=2, save_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, seed=0
    )
    made = Contrastive(model=clip_model(), args=settings, train_dataset=Pictures(), processing_class=processor)
    made.train()
    made.save_model()
    assert (folder / "training_args.bin").exists()
    return folder


def sentence_transformers(folder):
    """A folder of sentence-transformers, whose model lies below it."""
    today(folder / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder / "0_CLIPModel"


FOLDERS = {
    "today": today,
    "of 2021": of_2021,
    "BertTokenizer": lambda folder: checkpoint_with(TOKENIZERS["BertTokenizer"](folder), folder),
    "slow tokenizer": lambda folder: checkpoint_with(TOKENIZERS["slow, bytes"](folder), folder),
    "Trainer": trained,
    "checkpoint of Trainer": lambda folder: trained(folder) / "checkpoint-1",
    "sentence-transformers": sentence_transformers,
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_command_on_a_folder(kind, work):
    base = FOLDERS[kind](work / kind.replace(" ", "-"))
    out = base.with_name(f"{base.name}-out")
    succeeded(sith("decompose", base, "--concepts", "concepts.txt", "--layers", "-1", "--sparsity", 3, "-o", out / "d"))
    embeddings = ConceptDictionary.from_pretrained(out / "d").embeddings
    half = kind == "of 2021"
    expected = by_transformers(base, CONCEPTS).float()
    torch.testing.assert_close(embeddings, expected, atol=5e-3 if half else 2e-6, rtol=0)

    rule = ("--suppress", "ocean", "--threshold", 0.01, "--yes")
    succeeded(sith("edit", base, "--decomposition", out / "d", *rule, "-o", out / "s"))
    succeeded(sith("save-edited", base, "--spec", out / "s", "-o", out / "e"))
    assert "verified" in succeeded(sith("verify", out / "e", "--base", base)).out
    before, after = (read_raw(path / "model.safetensors")[0] for path in (base, out / "e"))
    changed = {key for key in before if before[key].content != after[key].content}
    assert changed
    assert all(".layers.2.self_attn.out_proj." in key for key in changed)
    CLIPModel.from_pretrained(out / "e")

    succeeded(sith("evaluate", base, out / "e", "--data", "pictures", "-o", out / "r"))
    succeeded(sith("image-mean", base, "--data", "pictures", "-o", out / "m"))


def test_the_folder_above_a_model_names_it(work):
    sentence_transformers(work / "above")
    made = work / "above-spec"
    for command in (
        ("decompose", "above", "--concepts", "concepts.txt", "-o", made),
        ("image-mean", "above", "--data", "pictures", "-o", made),
        ("verify", "above", "--base", "above/0_CLIPModel"),
    ):
        assert "0_CLIPModel" in refused(sith(*command))
    assert not made.exists()


def test_a_vision_tower_of_another_processor(work):
    """A vision-only folder has its own image processor; its text model's is for another size."""
    projected_vision_model().save_pretrained(work / "vision")
    image_processor().save_pretrained(work / "vision")
    today(work / "text")
    ran = sith("image-mean", "vision", "--text-model", "text", "--data", "pictures", "-o", "vision-mean")
    assert "vision-mean" in succeeded(ran).out
    assert AutoImageProcessor.from_pretrained(work / "vision").crop_size["height"] == 16
