"""OWL-ViT and OWLv2: CLIP's towers alone, and inside a detection model whose class head words are compared with."""

import copy

import pytest
import torch
import transformers
from torch.nn.functional import normalize

from sith_hf import ConceptDictionary, SithEditor
from sith_hf.checkpoint import verify
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.images import model_variants
from sith_hf.towers import encode_texts, family_of
from tests.support.literal import Parts, edited_output, singular_values
from tests.support.owl import owl_model
from tests.support.raw import read_raw
from tests.support.tiny import byte_tokenizer, clip_model, image_processor

TEXTS = ["red", "a blue sky", "Dog", "night forest", "snow", "boat"]
KINDS = [(f"{title}{kind}", tower) for title in ("OwlViT", "Owlv2") for kind in ("Model", "ForObjectDetection")
         for tower in ("vision", "text")]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home, found = tmp_path_factory.mktemp("owl"), {}
    for number, name in enumerate(sorted({name for name, _ in KINDS})):
        owl_model(name, number).save_pretrained(home / name)
        byte_tokenizer(home / "t").save_pretrained(home / name)
        image_processor().save_pretrained(home / name)
        found[name] = home / name
    return found


def whole(model):
    return getattr(model, "owlvit", getattr(model, "owlv2", model))


def output(model, tower):
    """What a tower computes: the output of the vision tower for random pixels, or embeddings of texts."""
    if tower == "vision":
        pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).to(next(model.parameters()))
        found = whole(model).vision_model(pixel_values=pixels)
        return torch.cat([found.last_hidden_state.flatten(), found.pooler_output.flatten()])
    ids = torch.tensor([[512, 5, 9, 513, 0], [512, 7, 513, 0, 0]])
    return whole(model).get_text_features(input_ids=ids).pooler_output


def parts_of(layer):
    attention, norm = layer.self_attn, layer.layer_norm1
    tensors = (norm.weight, norm.bias, attention.v_proj.weight, attention.v_proj.bias)
    return Parts(*(t.detach() for t in (*tensors, attention.out_proj.weight, attention.out_proj.bias)))


@pytest.mark.parametrize(("name", "tower"), KINDS)
def test_an_edited_folder_computes_with_the_edited_matrices(folders, tmp_path, name, tower):
    folder, kind = folders[name], getattr(transformers, name)
    editor = SithEditor.from_pretrained(folder, tower=tower)
    found = editor.decompose(ConceptDictionary.from_texts(TEXTS))
    made = editor.edit().vectors(0.0, layers=[0], heads=[0], vectors=[1])
    spec = made.vectors(-1.0, layers=[1], heads=[1], vectors=[0]).vectors(3.0, layers=[1], heads=[0], vectors=[2]).spec
    editor.save_pretrained(tmp_path / "edited", spec)
    assert verify(tmp_path / "edited", folder).ok
    base = kind.from_pretrained(folder).double()
    edited, report = kind.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not report["missing_keys"]
    literal = copy.deepcopy(base)
    layers = getattr(whole(literal), f"{tower}_model").encoder.layers
    heads = editor.tower.num_heads
    for number in (0, 1):
        assert torch.allclose(
            found.singular_values[number].double(), singular_values(parts_of(layers[number]), heads), atol=1e-5
        )
        out, bias = edited_output(parts_of(layers[number]), heads, spec, number)
        layers[number].self_attn.out_proj.weight.data, layers[number].self_attn.out_proj.bias.data = out, bias
    with torch.no_grad():
        expected, got, before = (output(model.double().eval(), tower) for model in (literal, edited, base))
        with editor.applied(spec) as model:
            assert torch.allclose(output(model, tower).double(), got, atol=1e-5)
    assert torch.allclose(expected, got, atol=1e-4)
    assert not torch.allclose(before, got, atol=1e-2)  # the control
    one, two = (read_raw(place / "model.safetensors")[0] for place in (folder, tmp_path / "edited"))
    stem = f"{editor.tower.family}." if "Detection" in name else ""
    assert {key for key in one if one[key] != two[key]} == {
        f"{stem}{tower}_model.encoder.layers.{n}.self_attn.out_proj.{part}"
        for n in (0, 1)
        for part in ("weight", "bias")
    }
    SithEditor.from_pretrained(tmp_path / "edited").revert(tmp_path / "back")
    back = kind.from_pretrained(tmp_path / "back").double()
    with torch.no_grad():
        assert torch.allclose(output(back, tower), before, atol=1e-5)


@pytest.mark.parametrize("name", sorted({name for name, _ in KINDS}))
def test_text_embeddings_are_those_of_the_library(folders, name):
    editor = SithEditor.from_pretrained(folders[name])
    tokenizer = editor.loaded.tokenizer
    batch = tokenizer(TEXTS, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        expected = normalize(whole(editor.model).get_text_features(**batch).pooler_output, dim=-1)
    assert torch.allclose(encode_texts(editor.model, tokenizer, TEXTS), expected, atol=1e-6)


def test_a_direction_reaches_the_joint_space_by_the_projection_or_the_class_head(folders):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1)).double()
    for name in ("OwlViTModel", "OwlViTForObjectDetection"):
        editor = SithEditor.from_pretrained(folders[name])
        model = copy.deepcopy(editor.model).double()
        normed = whole(model).vision_model.post_layernorm(direction)
        detects = name.endswith("Detection")
        expected = model.class_head.dense0(normed) if detects else model.visual_projection(normed)
        assert torch.allclose(editor.tower.to_joint(direction), normalize(expected, dim=-1), atol=1e-9)
        assert editor.tower.readout().exact is not detects
        assert ("class_head" in editor.tower.readout().title) is detects


def test_images_are_embedded_by_the_model_of_images_and_texts_only(folders):
    pixels = torch.randn(2, 3, 16, 16)
    editor = SithEditor.from_pretrained(folders["OwlViTModel"])
    (variant,) = model_variants(editor, {"base": None})
    with torch.no_grad():
        expected = normalize(editor.model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        assert torch.allclose(variant.embed(pixels), expected, atol=1e-6)
    detection = SithEditor.from_pretrained(folders["OwlViTForObjectDetection"])
    with pytest.raises(InputError, match="an embedding for each patch"):
        family_of(detection.model).embed_images(detection.model, pixels)


def test_an_edit_of_another_family_is_refused(folders):
    editor = SithEditor.from_pretrained(folders["OwlViTModel"])
    editor.decompose(ConceptDictionary.from_texts(TEXTS), layers=[0])
    spec = editor.edit().vectors(0.0, layers=[0], heads=[0]).spec
    for other in (clip_model(), owl_model("Owlv2Model")):
        with pytest.raises((BaseMismatch, UnsupportedModel)), SithEditor.from_model(other).applied(spec):
            pass
    other = SithEditor.from_pretrained(folders["Owlv2Model"])
    other.decompose(ConceptDictionary.from_texts(TEXTS), layers=[0])
    with pytest.raises(BaseMismatch, match="famil"):
        spec.compose(other.edit().vectors(0.0, layers=[0], heads=[0]).spec)
