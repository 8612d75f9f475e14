"""Refusals: one line that says why the method does not hold for a family, or which families are supported."""

import json

import pytest
from transformers import CONFIG_MAPPING

from sith_hf import SithEditor
from sith_hf.errors import UnsupportedModel
from sith_hf.towers import FAMILIES, family_of_config
from sith_hf.towers.refusals import REASONS, refusal, refusal_of_name

KNOWN = {
    "clap": "Swin",
    "swin": "Swin",
    "blip-2": "Q-Former",
    "instructblip": "Q-Former",
    "align": "convolutions",
    "groupvit": "groups",
}


@pytest.mark.parametrize(("model_type", "word"), KNOWN.items())
def test_a_known_family_is_refused_with_its_reason(model_type, word, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UnsupportedModel, match=rf"model_type '{model_type}' is not supported: .*{word}") as caught:
        SithEditor.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(f"{next(iter(family.model_types))} (" in message for family in FAMILIES)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"architecture": "eva02_large"}, "eva02_large, a model of timm, is not supported: a layer norm"),
        ({"architecture": "fastvit_mci2"}, "fastvit_mci2, a model of timm, is not supported: MobileCLIP"),
        ({"model_type": "clip", "architectures": ["EvaCLIPModel"]}, "EvaCLIPModel is not supported: it runs"),
    ],
)  # fmt: skip
def test_models_of_timm_and_remote_code_are_known_by_name(raw, match):
    with pytest.raises(UnsupportedModel, match=match):
        family_of_config(raw)


def test_an_unknown_family_lists_the_supported_ones_and_how_to_add_one():
    with pytest.raises(UnsupportedModel) as caught:
        family_of_config({"model_type": "nobody\x1b[31m"})
    message = str(caught.value)
    assert "clip (CLIPModel)" in message
    assert "docs/design.md, 'A new family', says how to add one" in message
    assert "\x1b" not in message


def test_a_configuration_without_model_type_is_said_to_lack_it():
    with pytest.raises(UnsupportedModel, match=r"without model_type in its config\.json is not supported"):
        family_of_config({})


def test_no_supported_type_is_refused_and_every_refused_one_exists():
    supported = {kind for family in FAMILIES for kind in family.model_types}
    assert not supported & REASONS.keys()
    assert REASONS.keys() <= set(CONFIG_MAPPING.keys())


@pytest.mark.parametrize(
    "raw",
    [
        {"model_type": "siglip", "architectures": ["SiglipForImageClassification"]},
        {"model_type": "clip", "architectures": ["CLIPForImageClassification"]},
    ],
)
def test_another_class_of_a_supported_family_lists_the_classes_of_that_family(raw):
    with pytest.raises(UnsupportedModel, match="has no tower to edit; supported: ") as caught:
        family_of_config(raw)
    listed = str(caught.value).partition("supported: ")[2]
    assert listed.startswith(f"{raw['model_type']} (")
    assert "owlvit" not in listed


@pytest.mark.parametrize("name", ["CLIPModel", "vit_base_patch32_clip_224", "ViT-B-32", "", "my-clip"])
def test_control_other_names_have_no_reason(name):
    assert refusal_of_name(name) is None


def test_control_a_supported_configuration_has_no_reason():
    assert refusal({"model_type": "clip", "architectures": ["CLIPModel"]}) is None
