"""Recipes that edit both towers, or the text tower alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import CLIPModel

from sith_hf.checkpoint.verify import verify
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError
from sith_hf.evaluation.retrieval import UNSAFE, VISU
from sith_hf.recipe import Recipe
from sith_hf.recipe.result import RunResult
from sith_hf.recipe.run import run_recipe
from tests.recipe.test_run import files

SMALL = [
    "evaluate.tasks.0.data.pictures=12",
    *(f"evaluate.tasks.{number}.data.pictures=24" for number in (1, 2, 3)),
    "evaluate.resamples=100",
    "evaluate.baselines={random: 1, heads: true, seed: 3}",
    "decompose.layers=[-2, -1]",
]
TEXT_ONLY = ["edits=[{rule: words, tower: text, concepts: [danger, skull]}]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_recipe("remove-unsafe", tmp_path_factory.mktemp("run") / "out", overrides=SMALL)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_recipe("remove-unsafe", tmp_path_factory.mktemp("text") / "out", overrides=[*SMALL, *TEXT_ONLY])


def recall(found: RunResult, setting: str) -> dict[str, float]:
    assert found.evaluation is not None
    return dict(found.evaluation.task("captions").metric("recall at 1", setting).values)


def test_the_edits_of_both_towers_are_in_one_checkpoint(run: RunResult) -> None:
    assert [result.tower for result in run.towers] == ["vision", "text"]
    assert Decomposition.from_pretrained(run.folder / "decomposition").tower == "vision"
    assert Decomposition.from_pretrained(run.folder / "decomposition-text").tower == "text"
    spec = EditSpec.from_pretrained(run.folder / "spec")
    assert spec == run.spec
    assert [part.tower for part in spec.parts] == ["vision", "text"]
    assert verify(run.folder / "edited").ok
    model, info = CLIPModel.from_pretrained(run.folder / "edited", output_loading_info=True)
    assert not info["missing_keys"]
    base = CLIPModel.from_pretrained("sith_hf/demo/checkpoint").state_dict()
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not value.equal(base[name])}
    assert changed == {"vision_model", "text_model"}
    assert {key.split(".")[0] for key in run.saved.changed} == changed


def test_each_tower_alone_is_evaluated_beside_both(run: RunResult, text_run: RunResult) -> None:
    results = json.loads((run.folder / "results.json").read_text())
    assert results["contenders"] == ["base", "edited", "vision only", "text only", "random 3", "whole heads"]
    assert json.loads((text_run.folder / "results.json").read_text())["contenders"] == [
        "base", "edited", "random 3", "whole heads",
    ]  # fmt: skip
    for setting in (*VISU, *UNSAFE):
        values = recall(run, setting)
        assert values["text only"] == recall(text_run, setting)["edited"]
        assert values["base"] == recall(text_run, setting)["base"]
    card = json.loads((run.folder / "edited" / "sith" / "evaluation.json").read_text())
    assert len([row for row in card["results"] if "recall" in row["metric"]]) == len(VISU) + len(UNSAFE)
    assert all(row["parts"].keys() == {"vision only", "text only"} for row in card["results"])
    assert (
        "| base | vision only | text only | random vectors | whole heads | edited |"
        in (run.folder / "edited" / "README.md").read_text()
    )
    assert "vision only" not in (text_run.folder / "edited" / "README.md").read_text()


def test_only_the_variants_with_an_edited_text_tower_read_other_texts(run: RunResult) -> None:
    assert run.evaluation is not None
    drift = run.evaluation.task("danger itself").metric("drift", "class danger").values
    assert drift["vision only"] == drift["base"] == 0
    assert drift["edited"] == drift["text only"] > 0.1
    (note,) = [note for note in run.evaluation.task("danger itself").notes if "no longer mean" in note]
    assert "danger" in note
    assert not [note for note in run.evaluation.task("objects").notes if "no longer mean" in note]
    images = run.evaluation.task("everything but danger").metric("drift, mean").values
    assert images["text only"] == 0 < images["vision only"] == images["edited"]


def test_the_text_tower_alone(text_run: RunResult) -> None:
    assert [result.tower for result in text_run.towers] == ["text"]
    assert Decomposition.from_pretrained(text_run.folder / "decomposition").tower == "text"
    assert not (text_run.folder / "decomposition-text").exists()
    assert all(key.startswith("text_model.") for key in text_run.saved.changed)
    assert verify(text_run.folder / "edited").ok


@pytest.mark.parametrize("name", ["run", "text_run"])
def test_the_recipe_gives_the_same_bytes_again(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found: RunResult = request.getfixturevalue(name)
    resolved = Recipe.from_file(found.folder / "recipe.yaml")
    assert resolved.base.text_sha256
    assert resolved.base.text_settings
    assert resolved.decompose_text is not None
    assert (resolved.decompose_text.layers, resolved.decompose_text.rank) == ((0, 1), 32)
    assert (resolved.base.sha256 is None) == (name == "text_run")
    again = run_recipe(found.folder / "recipe.yaml", tmp_path / "again")
    assert files(again.folder) == files(found.folder)


def test_the_same_request_again_reads_the_results(run: RunResult, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "out")
    again = run_recipe("remove-unsafe", tmp_path / "out", overrides=SMALL)
    assert again.to_json()["towers"] == run.to_json()["towers"]
    assert again.to_json()["evaluation"] == run.to_json()["evaluation"]
    assert again.spec == run.spec
    for ours, theirs in zip(again.towers, run.towers, strict=True):
        assert (ours.gains.gain, ours.gains.reason) == (theirs.gains.gain, theirs.gains.reason)


def test_existing_decompositions_of_both_towers(run: RunResult, tmp_path: Path) -> None:
    overrides = [*SMALL, "evaluate=null", f"decompose.from={run.folder / 'decomposition'}",
                 f"decompose_text={{from: {run.folder / 'decomposition-text'}}}"]  # fmt: skip
    again = run_recipe("remove-unsafe", tmp_path / "out", overrides=overrides)
    assert again.spec == run.spec
    assert (again.folder / "decomposition-text" / "decomposition.safetensors").is_file()
    third = run_recipe(again.folder / "recipe.yaml", tmp_path / "third")
    assert files(third.folder) == files(again.folder)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("base.text_sha256=" + "a" * 64, "remove base.text_sha256"),
        ("base.text_settings={num_attention_heads: 8}", "remove base.text_settings"),
        ("decompose_text={layers: [7]}", "layer 7 does not exist: this tower has layers 0-1"),
        ("decompose_text={image_mean: none.safetensors}", "image mean"),
    ],
)
def test_what_is_wrong_with_the_text_tower_is_named(tmp_path: Path, override: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        run_recipe("remove-unsafe", tmp_path / "out", overrides=[*SMALL, *TEXT_ONLY, override])
    assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_decomposition_of_the_other_tower_is_refused(run: RunResult, tmp_path: Path) -> None:
    for key, folder, part in (
        ("decompose_text={from: ", "decomposition", "decompose_text.from"),
        ("decompose={from: ", "decomposition-text", "decompose.from"),
    ):
        overrides = [*SMALL, "evaluate=null", f"{key}{run.folder / folder}}}"]
        with pytest.raises(InputError, match=part) as caught:
            run_recipe("remove-unsafe", tmp_path / "out", overrides=overrides)
        assert "tower" in str(caught.value)


def test_the_settings_of_the_text_tower_are_those_of_decompose_without_its_layers() -> None:
    data = {"title": "a", "decompose": {"layers": [-1], "rank": 3, "sparsity": 7, "image_mean": "m"},
            "edits": [{"concepts": ["sea"], "tower": "text"}]}  # fmt: skip
    step = Recipe.from_data(data, "here").step_of("text")
    assert (step.layers, step.rank, step.image_mean, step.sparsity) == (None, None, None, 7)
    step = Recipe.from_data({**data, "decompose_text": {"layers": [0]}}, "here").step_of("text")
    assert (step.layers, step.sparsity) == ((0,), 5)


def test_a_recipe_that_edits_the_text_tower_of_a_vision_model(tmp_path: Path) -> None:
    from transformers import CLIPVisionModelWithProjection

    CLIPVisionModelWithProjection.from_pretrained("sith_hf/demo/checkpoint").save_pretrained(tmp_path / "vision")
    overrides = [*SMALL, *TEXT_ONLY, "evaluate=null", f"base={{model: {tmp_path / 'vision'}, text_model: embedded}}"]
    with pytest.raises(InputError, match="no text tower that can be edited"):
        run_recipe("remove-unsafe", tmp_path / "out", overrides=overrides)


def test_a_sweep_has_the_strengths_of_both_towers(run: RunResult, tmp_path: Path) -> None:
    data = "{world: groups, seed: 7, pictures: 6, columns: {label: object, group: [object, background]}}"
    task = f"{{kind: zero-shot, name: a, data: {data}, classes: [boat, car, camel, horse]}}"
    overrides = [*SMALL[4:], f"evaluate.tasks=[{task}]", "evaluate.sweep={strengths: [0.5, 1.0]}"]
    run_recipe("remove-unsafe", tmp_path / "out", overrides=overrides)
    points = json.loads((tmp_path / "out" / "results.json").read_text())["sweep"]["points"]
    vectors = {(point["contender"], point["setting"]): point["vectors"] for point in points}
    assert vectors["edited", 0.5] == len(run.spec)
    assert vectors["edited", 1.0] == vectors["vision only", 1.0] + vectors["text only", 1.0]
