"""Recipes: what ships is read, what is wrong is refused in one sentence."""

from __future__ import annotations

from importlib.resources import files

import pytest
from pydantic import ValidationError

from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.recipe import Recipe
from tests.tiny import save_clip

GOOD = "title: t\nedits:\n  - concepts: [red]\n"


def test_every_shipped_recipe_is_read() -> None:
    names = [entry.name for entry in files("sith_hf.recipes").iterdir() if entry.name.endswith(".yaml")]
    assert "demo.yaml" in names
    for name in names:
        assert Recipe.shipped(name.removesuffix(".yaml")).edits


def test_defaults_are_those_of_the_code_that_it_calls() -> None:
    recipe = Recipe.from_text(GOOD, "here")
    assert (recipe.edits[0].gain, recipe.edits[0].threshold, recipe.edits[0].near) == (0.0, 0.5, 0.6)
    assert (recipe.decompose.poles, recipe.decompose.sparsity, recipe.decompose.coherence_weight) == ("+-", 5, 0.3)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe.from_text(GOOD, "here").title = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("title: t\nedits:\n  - concepts: [red]\n    treshold: 0.4\n", "did you mean threshold"),
        ("title: t\nedits:\n  - concepts: red\n", "edits.0.concepts"),
        ("title: t\nedits:\n  - concepts: [red]\n    gain: .nan\n", "gain"),
        ("title: t\nedits:\n  - concepts: [red]\n    gain: yes\n", "gain"),
        ("title: t\n", "edits"),
        ("- a\n- b\n", "the recipe"),
        ("title: [", "not YAML"),
        ("title: !!python/object/apply:os.system [id]\nedits: []\n", "not YAML"),
        ("title: t\nedits: 2020-01-01\n", "neither"),
        ("title: t\ndecompose: {poles: both}\nedits: []\n", "decompose.poles"),
    ],
)
def test_what_is_wrong_is_refused_by_name(text: str, part: str) -> None:
    with pytest.raises(InputError, match="here") as caught:
        Recipe.from_text(text, "here")
    assert part in str(caught.value)


def test_missing_recipes_are_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=r"there are: .*demo"):
        Recipe.shipped("demos")
    with pytest.raises(InputError, match="could not be read"):
        Recipe.from_file(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="could not be read"):
        Recipe.from_file(tmp_path / "bytes.yaml")


def test_choosing_by_recipe_equals_choosing_by_hand(tmp_path) -> None:  # type: ignore[no-untyped-def]
    editor = SithEditor.from_pretrained(save_clip(tmp_path / "base"))
    editor.decompose(ConceptDictionary.from_texts(["red", "green", "blue", "sea", "dog", "boat", "car"]))
    text = "title: t\nedits:\n  - {concepts: [red], threshold: 0.3}\n  - {concepts: [dog], gain: 2.0, threshold: 0.3}\n"
    chosen = Recipe.from_text(text, "here").choose(editor).spec
    by_hand = editor.suppress("red", threshold=0.3).amplify("dog", gain=2.0, threshold=0.3).spec
    assert chosen == by_hand
    assert chosen != editor.suppress("red", threshold=0.3).spec
