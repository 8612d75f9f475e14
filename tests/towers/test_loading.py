"""Loading: weights equal those on disk, and faults are refused by name in one clear error."""

import json
import shutil
import struct

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPVisionModel,
    ViTConfig,
    ViTModel,
)

from sith_hf.checkpoint import locate
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError, SithError, UnsupportedModel
from sith_hf.towers import Checkpoint
from sith_hf.towers.loading import LoadedModel, load_model
from sith_hf.world import embedded_checkpoint
from tests.support import tiny

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
VALUE = "vision_model.encoder.layers.1.self_attn.v_proj.weight"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("loading") / "clip", seed=21)


@pytest.fixture
def folder(clean, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(clean, tmp_path / "clip")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Fail on every request to the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def change_weights(folder, change, target=None):
    """Rewrite ``model.safetensors`` by ``change``, a function from its tensors to others."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), target or path, metadata={"format": "pt"})


def refused(call, kind=InputError):
    """The message of the one clear error that ``call`` ends with: ours, short, and without another one behind it."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert isinstance(error, SithError)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    message = str(error)
    assert len(message) < 1500  # the list of classes is long
    assert "\n" not in message
    assert "Traceback" not in message
    return message


# --- what loads


def test_loads_a_clip_model_whole(clean):
    loaded = load_model(str(clean))
    assert isinstance(loaded.model, CLIPModel)
    assert not loaded.model.training
    assert (loaded.name, loaded.revision) == (str(clean), None)
    assert loaded.tokenizer("red")["input_ids"][0] == 512
    on_disk = load_file(clean / "model.safetensors")
    state = loaded.model.state_dict()
    assert on_disk.keys() <= state.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in on_disk.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dtype_of_the_checkpoint_is_kept(dtype, tmp_path):
    folder = tiny.save_clip(tmp_path / "clip", seed=22, dtype=dtype)
    editor = SithEditor.from_pretrained(folder)
    assert {p.dtype for p in editor.model.parameters()} == {dtype}
    assert editor.tower.layers[0].out_weight.dtype == dtype
    tiny.vision_model(seed=22).to(dtype).save_pretrained(tmp_path / "vision")
    assert next(load_model(str(tmp_path / "vision")).model.parameters()).dtype == dtype


def test_unprefixed_keys_of_transformers_5(tmp_path):
    model = tiny.vision_model(seed=23)
    model.save_pretrained(tmp_path / "new")
    keys = load_file(tmp_path / "new" / "model.safetensors").keys()
    assert not any(key.startswith("vision_model.") for key in keys)  # or this test tests nothing
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    change_weights(tmp_path / "old", lambda tensors: {f"vision_model.{k}": v for k, v in tensors.items()})
    for name in ("new", "old"):
        loaded = load_model(str(tmp_path / name))
        assert loaded.tokenizer is None
        state = loaded.model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert SithEditor.from_pretrained(tmp_path / name).tower.sha256([0]) == expected_sha256(model)


def expected_sha256(model):
    return SithEditor.from_model(model).tower.sha256([0])


@pytest.mark.parametrize("size", ["20KB", "1GB"])
def test_sharded_or_not(size, clean, tmp_path):
    folder = tiny.save_clip(tmp_path / "clip", seed=21, max_shard_size=size)
    assert (folder / "model.safetensors.index.json").exists() == (size == "20KB")
    one, other = load_model(str(folder)).model.state_dict(), load_model(str(clean)).model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
def test_architecture_decides_the_class(kind, tmp_path):
    make = {"CLIPVisionModel": tiny.vision_model, "CLIPVisionModelWithProjection": tiny.projected_vision_model}[kind]
    make(seed=24).save_pretrained(tmp_path / "model")
    assert type(load_model(str(tmp_path / "model")).model).__name__ == kind


def test_a_config_without_architectures_is_the_plain_class_of_its_type(folder, tmp_path):
    change_config(folder, architectures=None)
    assert isinstance(load_model(str(folder)).model, CLIPModel)


def test_without_a_tokenizer_it_loads_and_encodes_nothing(folder):
    from sith_hf.concepts.dictionary import ConceptDictionary

    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    editor = SithEditor.from_pretrained(folder)
    assert len(editor.tower.layers) == 3
    message = refused(lambda: editor.decompose(ConceptDictionary.from_texts(["a", "b", "c", "d", "e", "f"])))
    assert "tokenizer" in message


def test_a_relative_folder(clean, monkeypatch):
    monkeypatch.chdir(clean.parent)
    assert load_model("clip").name == "clip"


# --- families that are not read


def save_family(kind, folder):
    text = {"vocab_size": 20, "max_position_embeddings": 8, **SMALL, "eos_token_id": 1, "bos_token_id": 0}
    vision = {"image_size": 16, "patch_size": 8, **SMALL}
    config = CLIPConfig(text_config=text, vision_config=vision)
    model = {
        "vit": lambda: ViTModel(ViTConfig(**vision)),
        "classifier": lambda: CLIPForImageClassification(config),
    }[kind]()
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("vit", "'vit'"),
        ("classifier", "CLIPForImageClassification"),
    ],
)
def test_other_families_are_refused_by_name(kind, named, tmp_path):
    save_family(kind, tmp_path / "other")
    for call in (load_model, SithEditor.from_pretrained):
        message = refused(lambda call=call: call(str(tmp_path / "other")), UnsupportedModel)
        assert str(tmp_path / "other") in message
        assert named in message
        # and what would have been taken is listed
        more = ("clip_vision_model (CLIPVisionModel, CLIPVisionModelWithProjection)",)
        for name in ("clip (CLIPModel)", *(more if kind == "classifier" else ("siglip (SiglipModel)",))):
            assert name in message


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "siglip"},
        {"model_type": "CLIP"},
        {"model_type": None},
        {"model_type": ["clip"]},
        {"architectures": ["SomeModel"]},
        {"architectures": "SomeModel"},
    ],
    ids=str,
)
def test_a_config_of_another_family_is_refused(change, folder):
    change_config(folder, **change)
    known = "siglip (SiglipModel)" if change.get("model_type") == "siglip" else "clip (CLIPModel)"
    assert f"supported: {known}" in refused(lambda: load_model(str(folder)), UnsupportedModel)


def test_a_companion_has_a_text_tower(tmp_path, clean):
    tiny.projected_vision_model().save_pretrained(tmp_path / "vision")
    message = refused(lambda: load_model(str(tmp_path / "vision"), want_text=True), UnsupportedModel)
    assert "must be a whole model" in message
    assert load_model(str(clean), want_text=True).tokenizer is not None


# --- folders that are no checkpoints


PATHS = [
    "./b32nope",
    "../b32nope",
    "b32nope/",
    "a/b/c",
    "~/b32",
    "/nowhere/b32",
    ".hidden",
    "",
    "https://x.y/z",
    "a\0b",
]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("read", [load_model, locate, EditSpec.from_pretrained], ids=["load", "locate", "artifact"])
def test_a_path_where_nothing_is_never_reaches_the_hub(read, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(lambda: read(name))
    assert "no file or folder has this name: check the path" in message
    assert "Hub" not in message


@pytest.mark.parametrize("name", ["b32nope", "nobody/nothing"])
@pytest.mark.parametrize("read", [load_model, locate, EditSpec.from_pretrained], ids=["load", "locate", "artifact"])
def test_a_name_that_may_be_a_repository_says_why_the_hub_was_not_asked(read, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refused(lambda: read(name))
    assert f"{name}: no file or folder here has this name, and " in message
    assert "offline mode is on" in message
    assert "no checkpoint there" not in message
    (tmp_path / name).mkdir(parents=True)  # the control
    assert "offline" not in refused(lambda: read(name) if read is not locate else load_model(name))


def test_empty_folder(tmp_path):
    assert "no checkpoint there (it has no config.json)" in refused(lambda: load_model(str(tmp_path)))


@pytest.mark.parametrize("place", ["0_CLIPModel", "checkpoint-10", "snapshots/0123"])
def test_the_folder_above_a_checkpoint_names_it(place, clean, tmp_path):
    """Folders of sentence-transformers, of Trainer, and of the Hub's cache."""
    shutil.copytree(clean, tmp_path / "above" / place)
    (tmp_path / "above" / "modules.json").write_text("[]")
    for read in (load_model, Checkpoint.read):
        message = refused(lambda read=read: read(tmp_path / "above"))
        assert f"name a folder below it: {tmp_path / 'above' / place}" in message
    assert load_model(str(tmp_path / "above" / place)).tokenizer is not None


def test_a_file_is_no_folder(clean):
    refused(lambda: load_model(str(clean / "model.safetensors")))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udcff"])
def test_config_that_is_not_json(text, folder):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(folder) in refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("architectures", [5, [None], {"a": 1}], ids=str)
def test_architectures_that_are_no_list_of_names(architectures, folder):
    change_config(folder, architectures=architectures)
    refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("kept", [None, "pytorch_model.bin"])
def test_without_safetensors(kept, folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if kept:
        torch.save(tensors, folder / kept)
    message = refused(lambda: load_model(str(folder)), UnsupportedModel)
    assert "safetensors" in message
    assert "unpickles nothing" in message


def test_a_pickle_beside_the_safetensors_is_not_opened(folder, clean):
    (folder / "pytorch_model.bin").write_bytes(b"this would fail to unpickle")
    one, other = load_model(str(folder)).model.state_dict(), load_model(str(clean)).model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.parametrize("part", [4, 100, 0.5, -1])
def test_truncated_safetensors(part, folder):
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(part * len(raw)) if isinstance(part, float) else part])
    assert str(folder) in refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("what", ["header length", "header", "noise", "html"])
def test_damaged_safetensors(what, folder):
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    if what == "header length":
        raw[:8] = struct.pack("<Q", 2**60)
    elif what == "header":
        raw[8:40] = b"\xff" * 32
    elif what == "noise":
        raw = bytearray(range(256)) * 20
    else:
        raw = bytearray(b"<html>404</html>")
    path.write_bytes(raw)
    assert str(folder) in refused(lambda: load_model(str(folder)))


def test_missing_shard(tmp_path):
    folder = tiny.save_clip(tmp_path / "clip", seed=21, max_shard_size="20KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()
    assert str(folder) in refused(lambda: load_model(str(folder)))


# --- tensors that are not right


@pytest.mark.parametrize(
    "key",
    [
        VALUE,
        "visual_projection.weight",
        "text_model.encoder.layers.0.mlp.fc1.bias",
    ],
)
def test_missing_tensor(key, folder):
    change_weights(folder, lambda tensors: {k: v for k, v in tensors.items() if k != key})
    # transformers fills it with random numbers: without our refusal this would load
    _, report = CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert set(report["missing_keys"]) == {key}
    message = refused(lambda: load_model(str(folder)))
    assert f"1 tensors of a CLIPModel are missing, such as {key};" in message


def test_all_vision_tensors_missing(folder):
    change_weights(folder, lambda tensors: {k: v for k, v in tensors.items() if k.startswith("text")})
    assert "are missing" in refused(lambda: load_model(str(folder)))


def test_a_vision_checkpoint_that_calls_itself_clip(folder):
    tiny.vision_model(seed=1).save_pretrained(folder.parent / "vision")
    shutil.copy(folder.parent / "vision" / "model.safetensors", folder / "model.safetensors")
    assert "tensors of a CLIPModel are missing" in refused(lambda: load_model(str(folder)))


@pytest.mark.parametrize("key", [VALUE, "visual_projection.weight"])
@pytest.mark.parametrize("reshape", [lambda t: t[:-1], lambda t: t.new_zeros(0)])
def test_wrong_shape(key, reshape, folder):
    change_weights(folder, lambda tensors: tensors | {key: reshape(tensors[key]).clone()})
    assert str(folder) in refused(lambda: load_model(str(folder)))


def test_text_tower_that_is_not_numbers(folder):
    from sith_hf.concepts.dictionary import ConceptDictionary

    def spoil(tensors):
        tensors["text_model.final_layer_norm.bias"][0] = float("nan")
        return tensors

    change_weights(folder, spoil)
    editor = SithEditor.from_pretrained(folder)
    message = refused(lambda: editor.decompose(ConceptDictionary.from_texts(["a", "b", "c", "d", "e", "f"])))
    assert "not finite" in message


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 40},
        {"num_hidden_layers": 4},
        {"num_attention_heads": 5},
        {"num_attention_heads": 0},
        {"hidden_size": "wide"},
        {"patch_size": 0},
    ],
    ids=str,
)
def test_config_that_does_not_fit_the_weights(change, folder):
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, vision_config=config["vision_config"] | change)
    refused(lambda: SithEditor.from_pretrained(folder))


def test_extra_tensors_are_no_fault(folder, clean):
    change_weights(folder, lambda tensors: tensors | {"something.else": torch.zeros(2)})
    one, other = load_model(str(folder)).model.state_dict(), load_model(str(clean)).model.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_the_vision_half_of_a_whole_checkpoint(clean):
    """What CLIPVisionModel reads from a CLIPModel's folder is the tower that the editor reads there."""
    vision = CLIPVisionModel.from_pretrained(clean)
    ours = SithEditor.from_pretrained(clean).tower
    theirs = SithEditor.from_model(vision).tower
    for layer in range(3):
        assert ours.layers[layer].sha256() == theirs.layers[layer].sha256()


def test_the_title_does_not_depend_on_where_a_folder_lies(checkpoints, tmp_path, monkeypatch):
    shutil.copytree(checkpoints.base("CLIPVisionModel"), tmp_path / "a" / "clip")
    monkeypatch.chdir(tmp_path / "a")
    names = ("clip", "./clip/", "../a/clip", str(tmp_path / "a" / "clip"))
    assert {load_model(name).title for name in names} == {"clip"}
    monkeypatch.chdir(tmp_path / "a" / "clip")
    assert load_model(".").title == "clip"
    assert load_model(str(embedded_checkpoint())).title == "embedded"
    assert LoadedModel(None, None, "me/clip", "0" * 40).title == "me/clip"
    assert LoadedModel(None, None, "/gone/clip", None).title == "clip"
