"""config.json is compared with the weights before a model is built, and decides neither code nor files."""

import json
import shutil

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from sith_hf.checkpoint import save_edited
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError, SithError, UnsupportedModel
from sith_hf.towers import Checkpoint, load_model
from tests.support.raw import INDEX, SINGLE, random_spec
from tests.support.tiny import save_clip

VALUE = "vision_model.encoder.layers.1.self_attn.v_proj.weight"
TEXT = "text_model.encoder.layers.0.mlp.fc1.weight"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("config") / "clip", seed=31)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("config") / "clip", seed=31, max_shard_size="40KB")


@pytest.fixture
def folder(clean, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(clean, tmp_path / "clip")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Fail on every request to the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def change(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def configure(folder, part=None, **values):
    change(folder / "config.json", lambda data: (data if part is None else data[part]).update(values))


def refused(call, kind=InputError):
    """The message of the one error that ``call`` ends with."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, SithError)
    assert "\n" not in message
    assert len(message) < 700
    return message


# --- sizes


@pytest.mark.parametrize("value", [10**30, -4, 0, None, [16, 16]], ids=str)
def test_a_size_that_is_none(value, folder):
    configure(folder, "vision_config", num_hidden_layers=value)
    assert "num_hidden_layers" in refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("value", [10**9, "32"], ids=str)
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("vision_config", "num_hidden_layers"),
        ("vision_config", "hidden_size"),
        ("vision_config", "num_attention_heads"),
        ("vision_config", "intermediate_size"),
        ("vision_config", "patch_size"),
        ("vision_config", "image_size"),
        ("vision_config", "num_channels"),
        ("text_config", "num_hidden_layers"),
        ("text_config", "hidden_size"),
        ("text_config", "vocab_size"),
        ("text_config", "max_position_embeddings"),
        (None, "projection_dim"),
    ],
)
def test_sizes_that_are_not_those_of_the_weights(part, key, value, folder):
    configure(folder, part, **{key: value})
    assert "config.json" in refused(lambda: load_model(str(folder)))


def test_the_true_sizes_and_unused_keys_are_no_fault(folder, clean):
    configure(folder, "text_config", image_size=-1, projection_dim=None)
    configure(folder, "vision_config", vocab_size="none", projection_dim=10**9)
    one, other = load_model(str(folder)).model.state_dict(), load_model(str(clean)).model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_size_and_its_tensor_are_named(folder):
    configure(folder, "vision_config", hidden_size=64)
    message = refused(lambda: load_model(str(folder)))
    assert "has shape [32" in message
    assert "by config.json it has [64" in message
    configure(folder, "vision_config", hidden_size=32, num_hidden_layers=7)
    assert "vision_config.num_hidden_layers 7, but the weights have 3" in refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("eps", [-1e-5, None, "x", float("nan"), float("inf")], ids=str)
def test_an_epsilon_that_is_none(eps, folder):
    configure(folder, "vision_config", layer_norm_eps=eps)
    assert "layer_norm_eps" in refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("key", ["text_config", "vision_config", "text_config_dict"])
@pytest.mark.parametrize("value", [5, [], "x"], ids=str)
def test_a_part_that_is_no_object(key, value, folder):
    configure(folder, **{key: value})
    assert f"{key} holds no JSON object" in refused(lambda: load_model(str(folder)))


def rename(folder, new_name):
    weights = load_file(folder / SINGLE)
    save_file({new_name(key): tensor for key, tensor in weights.items()}, folder / SINGLE, {"format": "pt"})


@pytest.mark.parametrize("prefix", ["model.clip.", "module.", "_orig_mod."])
def test_weights_of_a_model_that_wraps_a_clip_model(prefix, folder):
    rename(folder, lambda key: prefix + key)
    assert f"begin with {prefix!r}" in refused(lambda: load_model(str(folder)))
    # The control: without one of them, tensors are missing.
    rename(folder, lambda key: key.removeprefix(prefix) if key.endswith("logit_scale") else key)
    rename(folder, lambda key: "other" if key.endswith("visual_projection.weight") else key)
    assert "are missing, such as" in refused(lambda: load_model(str(folder)))


def test_weights_with_the_prefix_of_the_base_model(folder, tmp_path):
    """``from_pretrained`` drops it: the names in the file stay, and artifacts have those of the model."""
    plain = shutil.copytree(folder, tmp_path / "plain")
    rename(folder, lambda key: f"clip.{key}")
    spec = random_spec(plain)
    saved = save_edited(folder, spec, tmp_path / "edited")
    assert set(saved.changed) == spec.touched_keys
    assert all(key.startswith("clip.") for key in load_file(tmp_path / "edited" / SINGLE))
    wanted = CLIPModel.from_pretrained(save_edited(plain, spec, tmp_path / "wanted").folder).state_dict()
    found = CLIPModel.from_pretrained(tmp_path / "edited").state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_weights_with_an_adapter_that_is_not_merged(folder):
    rename(folder, lambda key: key.replace(".v_proj.", ".v_proj.base_layer."))
    assert "an adapter that is not merged" in refused(lambda: load_model(str(folder)), UnsupportedModel)


def test_one_architecture_as_a_text(folder):
    configure(folder, architectures="CLIPModel")
    assert type(load_model(str(folder)).model) is CLIPModel
    configure(folder, architectures="CLIPForImageClassification")
    assert "architecture CLIPForImageClassification has no tower to edit" in refused(lambda: load_model(str(folder)))


def test_parts_under_the_names_of_2022(folder, tmp_path):
    parts = json.loads((folder / "config.json").read_text())
    dicts = {f"{name}_dict": parts[name] for name in ("text_config", "vision_config")}
    configure(folder, **dicts, text_config=None, vision_config=None)
    save_edited(folder, random_spec(folder), tmp_path / "edited")
    assert len(CLIPModel.from_pretrained(tmp_path / "edited").vision_model.encoder.layers) == 3


# --- values that would choose code, files or a dtype


@pytest.mark.parametrize("dtype", ["evil", "int8", "nn", "float8_e4m3fn", 5, ["float32"], {"": "float32"}], ids=str)
@pytest.mark.parametrize(("part", "key"), [(None, "dtype"), ("text_config", "torch_dtype")])
def test_a_dtype_that_is_none(key, part, dtype, folder):
    configure(folder, part, **{key: dtype})
    message = refused(lambda: load_model(str(folder)))
    assert f"has {key} {dtype!r}: expected one of float32, float16, bfloat16, float64" in message


@pytest.mark.parametrize(
    "wanted",
    ["evil/kernel", "kernels-community/flash-attn3", "flash_attention_2", "nope", 5, {"": "evil/x"}, "eager"],
    ids=str,
)
@pytest.mark.parametrize("part", [None, "vision_config"])
def test_attention_of_a_kernel_computes_the_same_without_it(part, wanted, folder, clean):
    configure(folder, part, attn_implementation=wanted)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ours, plain = load_model(str(folder)).model, load_model(str(clean)).model
    chosen = "eager" if (part, wanted) == (None, "eager") else "sdpa"
    assert ours.config._attn_implementation == chosen
    with torch.no_grad():
        found, expected = (model.get_image_features(pixel_values=pixels).pooler_output for model in (ours, plain))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("value", [{"quant_method": "bitsandbytes", "load_in_8bit": True}, {"a": "x"}, {}, 5])
def test_a_quantised_checkpoint(value, folder):
    configure(folder, quantization_config=value)
    assert "quantization_config" in refused(lambda: load_model(str(folder)), UnsupportedModel)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "other.safetensors", "pytorch_model.bin", 5])
def test_other_weights_chosen_by_the_config(name, folder):
    configure(folder, transformers_weights=name)
    for call in (load_model, Checkpoint.read):
        assert "transformers_weights" in refused(lambda call=call: call(folder), UnsupportedModel)
    configure(folder, transformers_weights=SINGLE)  # the control
    load_model(str(folder))


def test_weights_of_distributed_training_beside(folder):
    # transformers would load these in place of model.safetensors.
    shutil.copy(folder / SINGLE, folder / "shard-00000-model-00001-of-00001.safetensors")
    for call in (load_model, Checkpoint.read):
        assert "distributed checkpoint" in refused(lambda call=call: call(folder), UnsupportedModel)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", LFS, "[" * 100_000], ids=lambda text: text[:8])
def test_a_config_that_is_no_object(content, folder):
    (folder / "config.json").write_text(content)
    message = refused(lambda: load_model(str(folder)))
    assert f"{folder / 'config.json'}: it " in message
    assert ("git lfs pull" in message) == (content == LFS)


# --- tensors


@pytest.mark.parametrize(
    ("key", "dtype"),
    [(VALUE, "float8_e4m3fn"), (VALUE, "int8"), (VALUE, "bool"), (TEXT, "float8_e5m2"), (TEXT, "int64")],
)
def test_weights_that_are_not_floating_point_of_16_bits_or_more(key, dtype, folder):
    tensors = load_file(folder / SINGLE)
    tensors[key] = tensors[key].to(getattr(torch, dtype))
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    CLIPModel.from_pretrained(folder)  # transformers casts it without a word
    assert f"{key} is " in refused(lambda: load_model(str(folder)), UnsupportedModel)


def test_buffers_of_integers_are_no_fault(folder):
    # As checkpoints of 2021 have them.
    tensors = load_file(folder / SINGLE)
    tensors["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    assert load_model(str(folder)).tokenizer is not None


@pytest.mark.parametrize("content", [LFS, ""], ids=["git-lfs", "empty"])
@pytest.mark.parametrize("name", [SINGLE, INDEX, "shard"])
def test_files_that_were_not_fetched(name, content, clean, sharded, tmp_path):
    folder = shutil.copytree(clean if name == SINGLE else sharded, tmp_path / "clip")
    path = sorted(folder.glob("model-*"))[0] if name == "shard" else folder / name
    path.write_text(content)
    spec = random_spec(clean)
    for call in (lambda: load_model(str(folder)), lambda: save_edited(folder, spec, tmp_path / "edited")):
        message = refused(call)
        assert path.name in message
        assert ("git lfs pull" if content else "it is empty") in message
    assert not (tmp_path / "edited").exists()


@pytest.mark.parametrize("name", ["absolute", "../other/model.safetensors", "sub/{}", "..", ".", "", 5, "config.json"])
def test_a_shard_outside_the_folder_is_refused_by_all(name, clean, sharded, tmp_path):
    folder = shutil.copytree(sharded, tmp_path / "clip")
    other = shutil.copytree(clean, tmp_path / "other") / SINGLE
    first = sorted(folder.glob("model-*"))[0]
    (folder / "sub").mkdir()
    shutil.copy(first, folder / "sub")
    wanted = str(other) if name == "absolute" else name.format(first.name) if isinstance(name, str) else name

    def point(data):
        data["weight_map"] = {k: wanted if v == first.name else v for k, v in data["weight_map"].items()}

    change(folder / INDEX, point)
    if name in ("absolute", "../other/model.safetensors"):
        CLIPModel.from_pretrained(folder)  # transformers follows it
    spec = random_spec(clean)
    for call in (
        lambda: load_model(str(folder)),
        lambda: SithEditor.from_pretrained(folder),
        lambda: save_edited(folder, spec, tmp_path / "edited"),
    ):
        assert str(folder / INDEX) in refused(call)
    assert not (tmp_path / "edited").exists()
    load_model(str(sharded))  # the control
