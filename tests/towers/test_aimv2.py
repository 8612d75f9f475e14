"""AIMv2: RMS norms that do not centre, projections with and without biases, and a pooling head as the last layer."""

import copy

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import normalize, rms_norm
from transformers import Aimv2Config, Aimv2Model, Aimv2VisionModel

from sith_hf import ConceptDictionary, SithEditor
from sith_hf.checkpoint import export_adapter, verify
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.images import model_variants
from sith_hf.towers import encode_texts
from tests.support.literal import Parts, edited_output, singular_values
from tests.support.raw import read_raw
from tests.support.tiny import byte_tokenizer, image_processor, randomise, save_clip

TEXTS = ["red", "a blue sky", "Dog", "night forest", "snow", "boat"]
PLAIN = {"read_centred": False, "write_centred": False}
VARIANTS = {"plain": {}, "biases": {"qkv_bias": True, "mlp_bias": True}, "native": {"is_native": True}}
CASES = [(name, tower) for name in VARIANTS for tower in ("vision", "text") if (name, tower) != ("native", "text")]


def made(seed=0, **vision):
    shared = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    shared |= {"rms_norm_eps": 1e-5}
    text = {**shared, "vocab_size": 514, "max_position_embeddings": 77, "eos_token_id": 513}
    text |= {key: value for key, value in vision.items() if key.endswith("_bias")}
    config = Aimv2Config(
        text_config=text, vision_config={**shared, "image_size": 16, "patch_size": 8, **vision}, projection_dim=24
    )
    return randomise(Aimv2Model(config), seed)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home, found = tmp_path_factory.mktemp("aimv2"), {}
    for number, (name, options) in enumerate(VARIANTS.items()):
        made(number, **options).save_pretrained(home / name)
        byte_tokenizer(home / "t").save_pretrained(home / name)
        image_processor().save_pretrained(home / name)
        found[name] = home / name
    return found


def pixels():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def output(model, tower):
    if tower == "vision":
        return model.get_image_features(pixel_values=pixels().to(next(model.parameters()))).pooler_output
    ids = torch.tensor([[512, 5, 9, 513, 0], [512, 7, 513, 0, 0]])
    return model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output


def parts_of(tower, number):
    if number == len(tower.encoder.layers):
        norm, value, out = tower.rms_norm, tower.head.v_proj, tower.head.output_proj
    else:
        layer = tower.encoder.layers[number]
        norm, value, out = layer.rms_norm1, layer.attention.v_proj, layer.attention.out_proj
    parts = (norm.weight, None, value.weight, value.bias, out.weight, out.bias)
    return Parts(*(None if t is None else t.detach() for t in parts)), out


@pytest.mark.parametrize(("name", "tower"), CASES)
@pytest.mark.parametrize("fold", [True, False])
def test_an_edited_folder_computes_with_the_edited_matrices(folders, tmp_path, name, tower, fold):
    folder = folders[name]
    editor = SithEditor.from_pretrained(folder, tower=tower)
    found = editor.decompose(ConceptDictionary.from_texts(TEXTS), fold=fold)
    last = len(editor.tower.layers) - 1
    assert last == (2 if tower == "vision" else 1)
    edit = editor.edit().vectors(0.0, layers=[0], heads=[0], vectors=[1]).vectors(-1.0, layers=[last], heads=[1])
    spec = edit.vectors(3.0, layers=[last], heads=[2], vectors=[2]).spec
    editor.save_pretrained(tmp_path / "edited", spec)
    assert verify(tmp_path / "edited", folder).ok
    base = Aimv2Model.from_pretrained(folder).double().eval()
    edited, report = Aimv2Model.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not report["missing_keys"]
    literal, changed = copy.deepcopy(base), set()
    part = getattr(literal, f"{tower}_model")
    for number in (0, last):
        parts, module = parts_of(part, number)
        if fold:
            expected = singular_values(parts, 4, **PLAIN)
            assert torch.allclose(found.singular_values[number].double(), expected, atol=1e-5)
        module.weight.data, bias = edited_output(parts, 4, spec, number, **PLAIN)
        if bias is not None:
            module.bias.data = bias
        path = next(path for path, other in literal.named_modules() if other is module)
        changed |= {f"{path}.{key}" for key, _ in module.named_parameters()}
    with torch.no_grad():
        expected, got, before = (output(model.double().eval(), tower) for model in (literal, edited, base))
        with editor.applied(spec) as model:
            assert torch.allclose(output(model, tower).double(), got, atol=1e-5)
    assert torch.allclose(expected, got, atol=1e-4)
    assert not torch.allclose(before, got, atol=1e-2)  # the control
    one, two = (read_raw(place / "model.safetensors")[0] for place in (folder, tmp_path / "edited"))
    differing = {key for key in one if one[key] != two[key]}
    assert differing <= changed
    assert {key for key in changed if key.endswith("weight")} <= differing
    SithEditor.from_pretrained(tmp_path / "edited").revert(tmp_path / "back")
    with torch.no_grad():
        assert torch.allclose(output(Aimv2Model.from_pretrained(tmp_path / "back").double(), tower), before, atol=1e-5)


def test_control_centring_gives_other_singular_values(folders):
    editor = SithEditor.from_pretrained(folders["plain"])
    found = editor.decompose(ConceptDictionary.from_texts(TEXTS), layers=[0]).singular_values[0].double()
    parts, _ = parts_of(editor.model.vision_model, 0)
    assert not torch.allclose(found, singular_values(parts, 4), atol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_embeddings_are_those_of_the_library(folders, name):
    editor = SithEditor.from_pretrained(folders[name])
    tokenizer, model = editor.loaded.tokenizer, editor.model
    with torch.no_grad():
        found = encode_texts(model, tokenizer, TEXTS)
        # Padded to one more than the longest text, so that transformers keeps the mask.
        batch = tokenizer(TEXTS, padding="max_length", max_length=40, return_tensors="pt")
        expected = normalize(model.get_text_features(**batch).pooler_output, dim=-1)
        assert torch.allclose(found, expected, atol=1e-6)
        eager = Aimv2Model.from_pretrained(folders[name], attn_implementation="eager")
        one = tokenizer(TEXTS[:1], return_tensors="pt")
        expected = normalize(eager.get_text_features(**one).pooler_output, dim=-1)
        assert torch.allclose(found[:1], expected, atol=1e-6)
        assert torch.allclose(encode_texts(eager, tokenizer, TEXTS), found, atol=1e-6)
        (variant,) = model_variants(editor, {"base": None})
        assert torch.allclose(variant.embed(pixels()), normalize(output(model, "vision"), dim=-1), atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "biases"])
def test_a_direction_that_every_token_holds_reaches_the_joint_space_exactly(folders, name):
    editor = SithEditor.from_pretrained(folders[name])
    model = copy.deepcopy(editor.model).double()
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1)).double()
    tower = model.vision_model
    normed = rms_norm(direction, (32,), tower.rms_norm.weight, tower.rms_norm.variance_epsilon)
    # The library's norm computes its variance in float32.
    expected = model.visual_projection(tower.head(normed.expand(1, 4, 32)))[0]
    assert torch.allclose(editor.tower.to_joint(direction, layer=0), normalize(expected, dim=-1), atol=1e-9)
    pool = editor.tower.to_joint(direction, layer=-1)
    assert torch.allclose(pool, normalize(model.visual_projection(direction), dim=-1), atol=1e-9)
    assert [way.title for way, _ in editor.tower.readouts] == [
        "rms_norm, head, visual_projection (exact)",
        "visual_projection (exact)",
    ]
    assert not torch.allclose(pool, editor.tower.to_joint(direction, layer=0), atol=0.1)


def test_a_vision_tower_alone_needs_its_whole_model(folders, tmp_path):
    vision = Aimv2VisionModel.from_pretrained(folders["plain"])
    vision.save_pretrained(tmp_path / "vision")
    alone = SithEditor.from_pretrained(tmp_path / "vision")
    with pytest.raises(InputError, match=r"without a projection into the joint space.*text_model="):
        alone.tower.readout()
    editor = SithEditor.from_pretrained(tmp_path / "vision", text_model=folders["plain"])
    editor.decompose(ConceptDictionary.from_texts(TEXTS), layers=[-1])
    spec = editor.edit().vectors(0.0, layers=[2], heads=[0], vectors=[0]).spec
    editor.save_pretrained(tmp_path / "edited", spec)
    edited, report = Aimv2VisionModel.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not report["missing_keys"]
    assert not torch.equal(edited.head.output_proj.weight, vision.head.output_proj.weight)
    with pytest.raises((InputError, UnsupportedModel)):
        SithEditor.from_pretrained(
            tmp_path / "vision", text_model=save_clip(tmp_path / "clip", vision={"hidden_size": 16})
        )


def test_a_vision_tower_without_a_pooling_head_has_no_way_to_words(tmp_path):
    model = made(use_head=False).vision_model
    editor = SithEditor.from_model(model)
    assert len(editor.tower.layers) == 2
    assert not editor.tower.has_joint


@pytest.mark.parametrize("name", ["plain", "biases"])
def test_an_adapter_is_the_edit_of_the_pool_too(folders, tmp_path, name):
    editor = SithEditor.from_pretrained(folders[name])
    editor.decompose(ConceptDictionary.from_texts(TEXTS))
    spec = editor.edit().vectors(-1.0, layers=[1, 2], heads=[1]).spec
    export_adapter(spec, tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(copy.deepcopy(editor.model), tmp_path / "adapter").base_model.model
    with torch.no_grad():
        before, found = (output(model, "vision") for model in (editor.model, adapted))
        with editor.applied(spec) as model:
            wanted = output(model, "vision")
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(before, wanted, atol=1e-2)  # the control
