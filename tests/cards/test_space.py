"""The card of a Space: metadata that the Hub accepts, and names from outside that stay text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from sith_hf.cards import space_card
from sith_hf.core.fingerprint import BaseRef
from tests.support.cli import HOSTILE
from tests.support.hub.cards import validate

pytest_plugins = ["tests.support.explored"]


def card(found, name="base", revision=None, **more):
    named = replace(found, base=BaseRef(name, revision, found.base.sha256))
    return space_card(named, decomposition="me/x-decomposition", gradio="6.31.0", **more)


@pytest.mark.parametrize("name", [*HOSTILE, "a: b # c", "---", "'", '"', "x" * 500, "/home/me/secret/clip", "- a"])
def test_any_name_of_a_base_makes_a_card_that_the_hub_accepts(without_model, name):
    text = card(without_model.decomposition, name)
    assert validate(text) == ([], [])
    body = text.split("\n---\n", 1)[1]
    assert not [mark for mark in ("\x1b", "\u202e", "\u200b", "\x07", "<b>", "/home/me", "](x)") if mark in text]
    assert body.startswith("\n# Inside ")


def test_the_license_and_the_models_are_those_of_the_hub(without_model):
    found, sha = without_model.decomposition, "a" * 40
    told = yaml.safe_load(card(found, "openai/clip", sha, base_card={"license": "mit"}).split("---\n")[1])
    assert (told["license"], told["models"]) == ("mit", ["openai/clip"])
    bare = yaml.safe_load(card(found, model="embedded").split("---\n")[1])
    assert {"license", "models"} & set(bare) == set()


def test_a_decomposition_in_a_model_repository_is_called_one(without_model):
    text = card(without_model.decomposition, kind="model")
    named = yaml.safe_load(text.split("---\n")[1])
    assert (named["models"], "datasets" in named) == (["me/x-decomposition"], False)
    assert "model repository [me/x-decomposition](https://huggingface.co/me/x-decomposition)" in text
    other = card(without_model.decomposition)
    assert yaml.safe_load(other.split("---\n")[1])["datasets"] == ["me/x-decomposition"]
    assert "https://huggingface.co/datasets/me/x-decomposition" in other
