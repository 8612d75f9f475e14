"""Recipes: shipped ones load, faults are refused in one sentence, extensions and overrides merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.core.strict_yaml import read_yaml, write_yaml
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.recipe import Recipe
from sith_hf.recipe.choose import choose
from sith_hf.recipe.edit_rules import ShareEdit
from sith_hf.recipe.source import load_data, shipped_names
from tests.support.tiny import save_clip

GOOD = "title: t\nedits:\n  - concepts: [red]\n"


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_recipe_is_read(name: str) -> None:
    recipe = Recipe.shipped(name)
    assert bool(recipe.edits) != bool(recipe.fidelity)
    assert recipe.title


def test_the_recipes_that_the_readme_names_are_there() -> None:
    assert {"suppress-spurious", "remove-unsafe", "sharpen-task", "demo"} <= set(shipped_names())


def test_defaults_are_those_of_the_code_that_it_calls() -> None:
    recipe = Recipe.from_text(GOOD, "here")
    edit = recipe.edits[0]
    assert isinstance(edit, ShareEdit)
    assert (edit.gain, edit.threshold, edit.near) == (0.0, 0.5, 0.6)
    assert (recipe.decompose.poles, recipe.decompose.sparsity, recipe.decompose.coherence_weight) == ("+-", 5, 0.3)
    assert recipe.base.model == "embedded"


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe.from_text(GOOD, "here").title = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("title: t\nedits:\n  - concepts: [red]\n    treshold: 0.4\n", "did you mean threshold"),
        ("title: t\nedit:\n  - concepts: [red]\n", "did you mean edits"),
        ("title: t\ndecompose: {sparsty: 4}\nedits: [{concepts: [a]}]\n", "did you mean sparsity"),
        ("title: t\nedits: [{rule: threshold, judge: {topik: a, concepts: [b]}}]\n", "did you mean topic"),
        ("title: t\nedits: [{rule: thresh, judge: {topic: a}}]\n", "rule is one of"),
        ("title: t\nedits:\n  - concepts: red\n", "edits.0.concepts"),
        ("title: t\nedits:\n  - concepts: [red]\n    gain: .nan\n", "gain"),
        ("title: t\nedits:\n  - concepts: [red]\n    gain: yes\n", "gain"),
        ("title: t\n", "edits"),
        ("title: t\nedits: []\n", "at least one edit"),
        ("- a\n- b\n", "object"),
        ("title: [", "not YAML"),
        ("title: t\ntitle: u\nedits: []\n", "is repeated"),
        ("1: t\n", "key 1 is not a text"),
        ("title: &a [x]\nedits: *a\n", "here, line 2: not YAML of plain data (references"),
        ("title: !!python/object/apply:os.system [id]\nedits: []\n", "not YAML"),
        ("title: t\nedits: 2020-01-01\n", "may hold only"),
        ("title: t\ndecompose: {poles: both}\nedits: [{concepts: [a]}]\n", "decompose.poles"),
        ("title: t\ndictionary: {texts: [a], file: b}\nedits: [{concepts: [a]}]\n", "one source"),
        ("title: t\ndictionary: {dataset: a}\nedits: [{concepts: [a]}]\n", "go together"),
        pytest.param("[" * 2000, "not YAML", id="deep"),
        ('title: !!int ""\n', "not YAML"),
        ("title: !!bool maybe\n", "not YAML"),
        ("title: !!timestamp foo\n", "not YAML"),
        ("title: t\nedits: [{concepts: [a], judge: {topic: a}}]\n", "known there"),
        ("title: t\nedits: [{concepts: [a]}]\nevaluate: {tasks: [{kind: zero-shot, dat: {}}]}\n", "did you mean data"),
    ],
)
def test_what_is_wrong_is_refused_by_name(text: str, part: str) -> None:
    with pytest.raises(InputError, match="here") as caught:
        Recipe.from_text(text, "here")
    assert part in str(caught.value)


def test_missing_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are .*demo"):
        Recipe.shipped("demos")
    for name in (tmp_path / "none.yaml", "/dev/zero", "x\0y"):
        with pytest.raises(InputError, match=r"no such file; .*demo|could not be read"):
            Recipe.from_file(name)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        Recipe.from_file(tmp_path / "bytes.yaml")


def test_extends_merges_mappings_and_replaces_lists(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text("title: b\ndecompose: {sparsity: 7, rank: 3}\nedits: [{concepts: [a, b]}]\n")
    (tmp_path / "above.yaml").write_text(
        "extends: below.yaml\ntitle: a\ndecompose: {rank: 2}\nedits: [{concepts: [c]}]\n"
    )
    recipe = Recipe.from_file(tmp_path / "above.yaml")
    assert (recipe.title, recipe.decompose.sparsity, recipe.decompose.rank) == ("a", 7, 2)
    assert recipe.edits == (ShareEdit(concepts=("c",)),)


def test_paths_of_a_recipe_below_start_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "child").mkdir()
    (tmp_path / "common" / "words.txt").write_text("red\nblue\n")
    (tmp_path / "common" / "parent.yaml").write_text("dictionary: {file: words.txt}\nedits: [{concepts: [red]}]\n")
    (tmp_path / "child" / "mine.yaml").write_text("extends: ../common/parent.yaml\ntitle: mine\n")
    found = Recipe.from_file(tmp_path / "child" / "mine.yaml").dictionary.file
    assert found is not None
    assert Path(found).read_text() == "red\nblue\n"


def test_another_source_of_concepts_replaces_the_one_below(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: demo\ntitle: mine\ndictionary: {file: words.txt, template: 'a {}'}\n")
    dictionary = Recipe.from_file(tmp_path / "mine.yaml").dictionary
    assert (dictionary.file, dictionary.texts, dictionary.template) == ("words.txt", None, "a {}")


def test_only_the_complaint_that_matters_is_made() -> None:
    with pytest.raises(InputError) as caught:
        Recipe.from_text(
            "title: t\nedits: [{concepts: [a]}]\nevaluate: {tasks: [{kind: zero-shot, dat: {}}]}\n", "here"
        )
    assert "at least 1 item" not in str(caught.value)


def test_a_shipped_recipe_can_be_extended(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: demo\ntitle: mine\n")
    assert Recipe.from_file(tmp_path / "mine.yaml").edits == Recipe.shipped("demo").edits


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_circle_of_extends_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name, parent in zip(names, [*names[1:], names[0]], strict=True):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {parent}.yaml\ntitle: t\n")
    with pytest.raises(InputError, match="circle"):
        Recipe.from_file(tmp_path / "a.yaml")


@pytest.mark.parametrize("parent", ["[a]", "3", "{a: b}"])
def test_extends_names_one_recipe(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a.yaml").write_text(f"extends: {parent}\ntitle: t\n")
    with pytest.raises(InputError, match="one recipe"):
        Recipe.from_file(tmp_path / "a.yaml")


def test_overrides_reach_every_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    recipe = Recipe.from_file(
        tmp_path / "a.yaml", ["decompose.layers=[-2,-1]", "edits.0.gain=-1.0", "base.model=me/it", "title=x=y"]
    )
    assert recipe.decompose.layers == (-2, -1)
    assert recipe.edits[0].gain == -1.0  # type: ignore[union-attr]
    assert (recipe.base.model, recipe.title) == ("me/it", "x=y")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("decompose", "key.key=value"),
        ("=3", "key.key=value"),
        ("a..b=3", "key.key=value"),
        ("edits.1.gain=0", "index of a list"),
        ("edits.first.gain=0", "index of a list"),
        ("title.first=0", "cannot be set inside"),
        ("title=[", "not YAML"),
        ("edits.0.gian=0", "did you mean gain"),
    ],
)
def test_overrides_that_fit_nowhere_are_refused(tmp_path: Path, override: str, part: str) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    with pytest.raises(InputError) as caught:
        Recipe.from_file(tmp_path / "a.yaml", [override])
    assert part in str(caught.value)


@pytest.mark.parametrize("name", shipped_names())
def test_written_out_in_full_a_recipe_says_the_same(name: str) -> None:
    recipe = Recipe.shipped(name)
    text = write_yaml(recipe.model_dump(mode="json"), recipe.title)
    assert Recipe.from_text(text, name) == recipe
    assert write_yaml(Recipe.from_text(text, name).model_dump(mode="json"), recipe.title) == text


def test_a_comment_cannot_become_a_key() -> None:
    assert read_yaml(write_yaml({"a": 1}, "first\nb: 2"), "here") == {"a": 1}


def test_the_schema_knows_every_key_and_says_what_it_is_for() -> None:
    schema = Recipe.model_json_schema()
    json.dumps(schema)
    assert schema["additionalProperties"] is False
    for definition in [schema, *schema["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            there = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2], field)
            assert field.get("description", there.get("description")), (
                f"{definition.get('title')}.{name} is not described"
            )


def test_choosing_by_recipe_equals_choosing_by_hand(tmp_path: Path) -> None:
    editor = SithEditor.from_pretrained(save_clip(tmp_path / "base"))
    concepts = editor.encode(ConceptDictionary.from_texts(["red", "green", "blue", "sea", "dog", "boat", "car"]))
    decomposition = editor.decompose(concepts)
    text = "title: t\nedits:\n  - {concepts: [red], threshold: 0.3}\n  - {concepts: [dog], gain: 2.0, threshold: 0.3}\n"
    chosen = choose(Recipe.from_text(text, "here"), editor, decomposition, concepts, tmp_path).spec
    by_hand = editor.suppress("red", threshold=0.3).amplify("dog", gain=2.0, threshold=0.3).spec
    assert chosen == by_hand
    assert chosen != editor.suppress("red", threshold=0.3).spec


def test_an_edit_that_chooses_nothing_is_refused(tmp_path: Path) -> None:
    editor = SithEditor.from_pretrained(save_clip(tmp_path / "base"))
    concepts = editor.encode(ConceptDictionary.from_texts(["red", "green", "blue", "sea", "dog", "boat", "car"]))
    recipe = Recipe.from_text("title: t\nedits:\n  - {concepts: [red], threshold: 1.0, near: 1.0}\n", "here")
    with pytest.raises(InputError, match=r"edits\.0"):
        choose(recipe, editor, editor.decompose(concepts), concepts, tmp_path)


def test_source_is_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert load_data(tmp_path / "a.yaml")[1] == tmp_path.resolve()


def test_an_effect_is_written_only_if_it_is_total() -> None:
    plain = Recipe.from_text(GOOD, "here")
    total = Recipe.from_text("decompose: {effect: total}\n" + GOOD, "here")
    assert "effect" not in plain.decompose.model_dump()
    assert total.decompose.model_dump()["effect"] == "total"
    assert Recipe.from_text(write_yaml(total.model_dump(mode="json"), "t"), "there") == total
    assert total.step_of("text").effect == "direct", "images have no effect in a text tower"
    with pytest.raises(InputError, match="effect"):
        Recipe.from_text("decompose: {effect: both}\n" + GOOD, "here")
