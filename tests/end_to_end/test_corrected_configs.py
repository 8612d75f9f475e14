"""A result from before a correction of the configuration is refused after it, and a change of no effect is not.

The settings that decide what a model computes are part of every fingerprint: heads, activation, epsilon, sizes, end of
text, tokenizer and pre-processing.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import Comparison, SithEditor
from sith_hf.edits import EditSpec, applied
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.files import ResumableJob
from sith_hf.images import DatasetSettings, mean_for, mean_of_images
from sith_hf.towers import ImageMean
from tests.support.cli import refused, sith
from tests.support.made import tiny_concepts
from tests.support.tiny import byte_tokenizer, image_processor, save_clip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint with tokenizer and image processor; read it, do not change it."""
    folder = save_clip(tmp_path_factory.mktemp("corrected") / "base")
    image_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """What was made from it: a dictionary, a decomposition, an image mean, a spec."""
    folder = tmp_path_factory.mktemp("made")
    editor = SithEditor.from_pretrained(base)
    editor.encode(tiny_concepts()).save_pretrained(folder)
    editor.decompose(tiny_concepts()).save_pretrained(folder)
    editor.edit().vectors(0.0, layers=[2], heads=[0], vectors=[0]).spec.save_pretrained(folder)
    mean_of_images(editor, DatasetSettings(world="balanced", seed=0, pictures=8)).save_pretrained(folder)
    return folder


@pytest.fixture
def corrected(base, tmp_path):
    """A copy of the checkpoint, to correct."""
    return shutil.copytree(base, tmp_path / "corrected")


def change(folder, part, name="config.json", **settings):
    """Change settings of a part of a JSON file, the whole when it is None."""
    data = json.loads((folder / name).read_text())
    (data if part is None else data[part]).update(settings)
    (folder / name).write_text(json.dumps(data))


def with_spec(made, folder, output):
    """The ways in which a spec meets a checkpoint."""
    spec, editor = EditSpec.from_pretrained(made), SithEditor.from_pretrained(folder)
    with editor.applied(spec):
        pass
    editor.save_pretrained(output, spec)


def with_decomposition(made, folder):
    return SithEditor.from_pretrained(folder).with_decomposition(Decomposition.from_pretrained(made))


def with_dictionary(made, folder):
    return SithEditor.from_pretrained(folder).encode(ConceptDictionary.from_pretrained(made))


def with_mean(made, folder):
    return mean_for(SithEditor.from_pretrained(folder), made)


VISION = {
    "num_attention_heads": (2, "num_attention_heads 4", "num_attention_heads 2"),
    "hidden_act": ("gelu", "hidden_act 'quick_gelu'", "hidden_act 'gelu'"),
    "layer_norm_eps": (1e-4, "layer_norm_eps 1e-05", "layer_norm_eps 0.0001"),
    "image_size": (17, "image_size 16", "image_size 17"),
    "num_hidden_layers": (2, "num_hidden_layers 3", "num_hidden_layers 2"),
}


@pytest.mark.parametrize("name", VISION)
def test_a_corrected_vision_tower(made, corrected, tmp_path, name):
    value, before, after = VISION[name]
    if name != "num_hidden_layers":  # without a layer, its tensors are missing too
        change(corrected, "vision_config", **{name: value})
        for call in (with_decomposition, with_mean):
            with pytest.raises(BaseMismatch, match=rf"with {before}, but .* has {after}: make it again"):
                call(made, corrected)
    change(corrected, "vision_config", **{name: value})
    spec = EditSpec.from_pretrained(made)
    with (
        pytest.raises(InputError, match=f"{before}, but|is not there"),
        applied(CLIPModel.from_pretrained(corrected), spec),
    ):
        pytest.fail("the block must not be entered")
    said = refused(sith("save-edited", corrected, "--spec", made, "-o", tmp_path / "out"))
    assert before in said
    assert after in said
    assert not (tmp_path / "out").exists()


TEXT = {
    "num_attention_heads": (1, "num_attention_heads 2", "num_attention_heads 1"),
    "hidden_act": ("gelu", "hidden_act 'quick_gelu'", "hidden_act 'gelu'"),
    "layer_norm_eps": (1e-4, "layer_norm_eps 1e-05", "layer_norm_eps 0.0001"),
    "eos_token_id": (2, "eos_token_id 513", "eos_token_id 2"),
}


@pytest.mark.parametrize("name", TEXT)
def test_a_corrected_text_tower(made, corrected, name):
    value, before, after = TEXT[name]
    change(corrected, "text_config", **{name: value})
    for call in (with_dictionary, with_decomposition):
        with pytest.raises(BaseMismatch, match=rf"encoded with {before}, but .* has {after}: make it again"):
            call(made, corrected)
    with_mean(made, corrected)  # images do not pass the text tower


def swapped(folder):
    """Two letters of the vocabulary change places."""
    data = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(data))


def test_a_corrected_tokenizer(made, corrected):
    swapped(corrected)
    for call in (with_dictionary, with_decomposition):
        with pytest.raises(
            BaseMismatch, match=r"encoded with tokenizer \w{12}\.\.\., but .* has tokenizer \w{12}\.\.\."
        ):
            call(made, corrected)
    decomposition = Decomposition.from_pretrained(made)
    with pytest.raises(BaseMismatch, match="encoded with tokenizer"):
        SithEditor.from_pretrained(corrected).embed("a new concept", decomposition=decomposition)


CUT = {
    "saved truncation": ({"truncation": True, "max_length": 5}, "max_tokens 77", "max_tokens 5"),
    "cut on the left": ({"truncation_side": "left"}, "truncation_side 'right'", "truncation_side 'left'"),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_corrected_truncation(made, corrected, kind):
    settings, before, after = CUT[kind]
    change(corrected, None, "tokenizer_config.json", model_max_length=40)  # the control: without truncation, no effect
    with_dictionary(made, corrected)
    change(corrected, None, "tokenizer_config.json", **settings)
    for call in (with_dictionary, with_decomposition):
        with pytest.raises(BaseMismatch, match=rf"encoded with {before}, but .* has {after}"):
            call(made, corrected)


def test_a_config_that_asks_for_tuples(base, corrected):
    """``return_dict: false`` changes the type of what the towers return, and no number."""
    change(corrected, "text_config", return_dict=False)
    change(corrected, "vision_config", return_dict=False)
    plain, tuples = SithEditor.from_pretrained(base), SithEditor.from_pretrained(corrected)
    assert torch.equal(plain.encode(tiny_concepts()).embeddings, tuples.encode(tiny_concepts()).embeddings)
    pictures = DatasetSettings(world="balanced", seed=0, pictures=8)
    assert torch.equal(mean_of_images(plain, pictures).image_mean, mean_of_images(tuples, pictures).image_mean)


PIXELS = {
    "resample": 2,
    "size": {"shortest_edge": 17},
    "image_mean": [0.5, 0.5, 0.5],
    "do_normalize": False,
    "rescale_factor": 0.5,
}


@pytest.mark.parametrize("name", PIXELS)
def test_corrected_pre_processing(made, corrected, name, tmp_path):
    change(corrected, None, "preprocessor_config.json", **{name: PIXELS[name]})
    with pytest.raises(BaseMismatch, match=f"with image processor: {name} .*, but .* has image processor: {name}"):
        with_mean(made, corrected)
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("\n".join(tiny_concepts().texts))
    command = ("decompose", corrected, "--concepts", concepts, "--image-mean", made, "-o", tmp_path / "out")
    assert f"image processor: {name}" in refused(sith(*command))
    with_decomposition(made, corrected)  # texts and weights do not pass the image processor


# --- what has no effect


def saved_again(folder):
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.save_pretrained(folder)
    tokenizer("a text", padding="max_length", truncation=True, max_length=9)
    tokenizer.save_pretrained(folder)


def old_files(folder):
    """The tokenizer of transformers 4: a vocabulary, merges and a config."""
    (folder / "tokenizer.json").unlink()
    byte_tokenizer(folder)


def without_defaults(folder):
    """Settings with the value of the class left out, and the form of configurations of old releases."""
    data = json.loads((folder / "config.json").read_text())
    for part in ("vision_config", "text_config"):
        for name in ("hidden_act", "layer_norm_eps"):
            data[part].pop(name)
    data["vision_config_dict"], data["text_config_dict"] = dict(data["vision_config"]), None
    (folder / "config.json").write_text(json.dumps(data))


def fast_processor(folder):
    data = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**data, "image_processor_type": "CLIPImageProcessorFast", "crop_size": 16, "size": 16})
    )


NO_EFFECT = {
    "dtype": lambda folder: change(folder, None, dtype="float16"),
    "attention": lambda folder: change(folder, None, attn_implementation="eager"),
    "names": lambda folder: change(folder, None, _name_or_path="me/clip", transformers_version="4.21.0"),
    "initializer": lambda folder: change(folder, "vision_config", initializer_range=0.5, attention_dropout=0.1),
    "saved again": saved_again,
    "shards": lambda folder: CLIPModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB"),
    "old tokenizer files": old_files,
    "defaults": without_defaults,
    "fast image processor": fast_processor,
}


@pytest.mark.parametrize("kind", NO_EFFECT)
def test_a_change_of_no_effect_is_not_refused(made, corrected, tmp_path, kind):
    NO_EFFECT[kind](corrected)
    with_dictionary(made, corrected)
    with_decomposition(made, corrected)
    with_spec(made, corrected, tmp_path / "out")
    assert with_mean(made, corrected).shape == (24,)


@pytest.mark.parametrize("kind", [CLIPVisionModel, CLIPVisionModelWithProjection])
def test_every_class_of_one_tower_has_the_same_settings(made, base, tmp_path, kind):
    model = kind.from_pretrained(base)
    wanted = SithEditor.from_pretrained(base).tower.settings
    assert SithEditor.from_model(model).tower.settings == wanted
    model.save_pretrained(tmp_path / "vision")
    spec = EditSpec.from_pretrained(made)
    assert spec.base.settings == wanted
    SithEditor.from_pretrained(tmp_path / "vision").save_pretrained(tmp_path / "out", spec)
    change(tmp_path / "vision", None, num_attention_heads=2)  # the control
    with pytest.raises(BaseMismatch, match="num_attention_heads 4, but"):
        SithEditor.from_pretrained(tmp_path / "vision").save_pretrained(tmp_path / "again", spec)


def test_half_precision_has_the_same_settings(made, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "half")
    SithEditor.from_model(CLIPModel.from_pretrained(folder).double()).with_decomposition(
        Decomposition.from_pretrained(made)
    )
    CLIPModel.from_pretrained(folder).half().save_pretrained(folder)
    assert SithEditor.from_pretrained(folder).tower.settings == SithEditor.from_pretrained(base).tower.settings


def test_files_without_settings_are_not_refused(made, corrected, tmp_path):
    """Those of earlier releases: what is not known is not compared."""
    change(corrected, "vision_config", hidden_act="gelu")
    decomposition = Decomposition.from_pretrained(made)
    base = decomposition.base.from_json({**decomposition.base.to_json(), "settings": {}})
    assert "settings" not in base.to_json()
    settings = {key: value for key, value in decomposition.settings.items() if key != "encoder_settings"}
    old = type(decomposition)(**{**vars(decomposition), "base": base, "settings": settings})
    old.save_pretrained(tmp_path / "old")
    SithEditor.from_pretrained(corrected).with_decomposition(Decomposition.from_pretrained(tmp_path / "old"))
    words = ConceptDictionary.from_pretrained(made)
    plain = ConceptDictionary(
        words.texts, embeddings=words.embeddings, encoder="old", encoder_sha256=words.encoder_sha256
    )
    plain.save_pretrained(tmp_path / "old")
    again = ConceptDictionary.from_pretrained(tmp_path / "old")
    assert again.encoder_settings is None
    assert SithEditor.from_pretrained(corrected).encode(again) is again


def test_settings_are_kept_in_every_file(made):
    wanted = {"num_attention_heads": 4, "num_hidden_layers": 3, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    wanted |= {"image_size": 16, "patch_size": 8}
    for kind in (Decomposition, EditSpec, ImageMean):
        assert kind.from_pretrained(made).base.settings.items() >= wanted.items()
    words, decomposition = ConceptDictionary.from_pretrained(made), Decomposition.from_pretrained(made)
    assert decomposition.settings["encoder_settings"] == words.encoder_settings
    assert len(words.encoder_settings["tokenizer"]) == 64
    assert words.encoder_settings["eos_token_id"] == 513


# --- unfinished work and comparisons


def test_parts_of_a_run_before_the_correction_are_refused(base, corrected, tmp_path):
    change(corrected, "vision_config", hidden_act="gelu")
    before, after = SithEditor.from_pretrained(base), SithEditor.from_pretrained(corrected)
    (tmp_path / "work").mkdir()
    job = ResumableJob(tmp_path / "work")
    before.decompose(tiny_concepts(), job=job)
    before.decompose(tiny_concepts(), job=job)  # the control
    with pytest.raises(InputError, match="differs in settings of the model"):
        after.decompose(tiny_concepts(), job=job)


def test_checkpoints_with_other_settings_are_not_compared(made, base, tmp_path):
    """Layers that base and edited share run once, so they must compute the same."""
    SithEditor.from_pretrained(base).save_pretrained(tmp_path / "edited", EditSpec.from_pretrained(made))
    Comparison.from_checkpoints(base, {"edited": tmp_path / "edited"})  # the control
    for part in ("vision", "text"):
        folder = shutil.copytree(tmp_path / "edited", tmp_path / part)
        change(folder, f"{part}_config", hidden_act="gelu")
        with pytest.raises(
            InputError, match=f"the {part} tower of base has hidden_act 'quick_gelu', that of {part} has"
        ):
            Comparison.from_checkpoints(base, {"edited": folder})


def test_a_resolved_recipe_knows_its_settings(base, corrected, tmp_path):
    import yaml

    recipe = {
        "title": "heads",
        "base": {"model": str(base)},
        "dictionary": {"texts": list(tiny_concepts().texts)},
        "edits": [{"rule": "vectors", "gain": 0.0, "layers": [2], "heads": [0], "vectors": [0]}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert sith("run", tmp_path / "recipe.yaml", "-o", tmp_path / "run").code == 0
    resolved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert resolved["base"]["settings"]["num_attention_heads"] == 4
    assert len(resolved["dictionary"]["encoder"]["tokenizer"]) == 64
    assert sith("run", tmp_path / "run" / "recipe.yaml", "-o", tmp_path / "again").code == 0  # the control
    change(corrected, "vision_config", hidden_act="gelu")
    resolved["base"]["model"] = str(corrected)
    (tmp_path / "vision.yaml").write_text(yaml.safe_dump(resolved))
    said = refused(sith("run", tmp_path / "vision.yaml", "-o", tmp_path / "vision"))
    assert "base: the recipe was run with hidden_act 'quick_gelu', and this base has hidden_act 'gelu'" in said
    change(corrected, "vision_config", hidden_act="quick_gelu")
    swapped(corrected)
    assert "dictionary: the recipe was run with tokenizer" in refused(
        sith("run", tmp_path / "vision.yaml", "-o", tmp_path / "text")
    )


def test_the_right_answer_differs(base, corrected):
    """The faults that these checks find are large: other heads give other singular vectors."""
    change(corrected, "vision_config", num_attention_heads=2)
    one, other = (SithEditor.from_pretrained(folder).decompose(tiny_concepts()) for folder in (base, corrected))
    assert one.singular_values.shape != other.singular_values.shape
    pixels = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before, after = (
        CLIPModel.from_pretrained(folder).vision_model(pixels).pooler_output for folder in (base, corrected)
    )
    assert float((before - after).abs().max()) > 0.1
