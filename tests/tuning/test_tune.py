"""``tune_recipe``: resumable, one look at the reported data, and a recipe that runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sith_hf.errors import InputError, MissingExtra
from sith_hf.recipe import Recipe, run_recipe
from sith_hf.tuning import TuneResult, tune_recipe
from tests.support.tuning import pictures, tunable

pytestmark = pytest.mark.slow

tuning = import_module("sith_hf.tuning.tune")
runs = import_module("sith_hf.evaluation.run")
held = import_module("sith_hf.evaluation.held_task")

RESULTS = ("tune.json", "recipe.yaml", "results.json", "pareto.png")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tunable(tmp_path_factory.mktemp("tuning"))


@pytest.fixture(scope="module")
def opened() -> list[str]:
    return []


@pytest.fixture(scope="module")
def tuned(recipe: Path, opened: list[str]) -> TuneResult:
    """The results of a search; ``opened`` gets every dataset that it opens."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, held):
            patch.setattr(module, "open_dataset", watched(module.open_dataset, opened))
        return tune_recipe(recipe, recipe.parent / "out")


def watched(own: Callable[..., Any], opened: list[str]) -> Callable[..., Any]:
    """Return ``open_dataset`` that notes what it opens."""

    def noting(data: Any, **options: Any) -> Any:
        opened.append(data.dataset)
        return own(data, **options)

    return noting


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def test_the_reported_data_are_opened_once_and_last(tuned: TuneResult, opened: list[str]) -> None:
    names = [Path(name).name for name in opened]
    assert names == ["validation", "test"]
    assert tuned.evaluation is not None
    assert [task.images for task in tuned.evaluation.tasks] == [16, 16]
    assert "10 trials looked at validation data. The data below were looked at once, at the end" in str(tuned)


def test_the_front_says_what_each_trial_was(tuned: TuneResult) -> None:
    record = tuned.to_json()
    assert record["trials"] == 10
    assert record["validation"]["things"]["images"] == 24
    assert [point["target"] for point in record["front"]] == sorted(
        (point["target"] for point in record["front"]), reverse=True
    )
    assert all(1 <= len(point["gains"]) <= 3 for point in record["front"])
    assert record["chosen"] in record["front"]
    assert all(layer in (1, 2) for layer, _, _, _ in record["chosen"]["gains"])
    assert record["target"]["title"] == "things: worst group"


def test_the_chosen_recipe_runs_and_edits_the_same_vectors(tuned: TuneResult, tmp_path: Path) -> None:
    plain = Recipe.from_file(tuned.folder / "recipe.yaml")
    assert plain.tune is None
    done = run_recipe(tuned.folder / "recipe.yaml", tmp_path / "run")
    (part,) = done.spec.parts
    gains = {key: gain for key, gain in tuned.gains.items() if gain != 1}
    assert dict(zip(part.keys, part.gain.tolist(), strict=True)) == pytest.approx(gains)
    assert done.evaluation is not None
    assert tuned.evaluation is not None
    assert done.evaluation.to_json() == tuned.evaluation.to_json()


def test_what_a_search_measured_is_what_an_evaluation_measures(tuned: TuneResult, tmp_path: Path) -> None:
    on_validation = [f"evaluate.tasks.{i}.data.dataset={tuned.folder.parent / 'validation'}" for i in (0, 1)]
    done = run_recipe(tuned.folder / "recipe.yaml", tmp_path / "run", overrides=on_validation)
    assert done.evaluation is not None
    chosen = tuned.record["chosen"]
    assert done.evaluation.value("things", "worst group", "edited") == chosen["target"]
    assert done.evaluation.value("others", "drift, mean", "edited") == pytest.approx(chosen["collateral"], abs=1e-6)


class Stopped(BaseException):
    """Not an error that anything handles."""


def stopped(recipe: Path, folder: Path, owner: Any, name: str, call: int, *overrides: str) -> None:
    """Tune until the call of a function of this number."""
    own: Callable[..., Any] = getattr(owner, name)
    seen: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        seen.append(0)
        if len(seen) == call:
            raise Stopped
        return own(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        with pytest.raises(Stopped):
            tune_recipe(recipe, folder, overrides=overrides)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(tuning, "ranked", 2), (tuning.Bench, "values", 6), (tuning, "measure_edit", 1), (tuning, "draw", 1)],
    ids=["ranking", "trial", "test", "writing"],
)
def test_an_interrupted_search_finds_the_same(
    tuned: TuneResult, recipe: Path, owner: Any, name: str, call: int, tmp_path: Path
) -> None:
    stopped(recipe, tmp_path / "out", owner, name, call)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.work").is_dir()
    tune_recipe(recipe, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tuned.folder)
    assert not (tmp_path / "out.work").exists()


def test_finished_results_are_read(tuned: TuneResult, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "measure_edit", None)
    again = tune_recipe(recipe, tuned.folder)
    assert again.to_json() == tuned.to_json()


def test_changed_results_are_not_taken_for_those_of_the_search(tuned: TuneResult, recipe: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned.folder, tmp_path / "out")
    (tmp_path / "out" / "recipe.yaml").write_text("title: another")
    with pytest.raises(InputError, match="not empty"):
        tune_recipe(recipe, tmp_path / "out")


def small(folder: Path, **changes: Any) -> Path:
    """A recipe with a short search."""
    return tunable(folder, trials=2, max_vectors=1, layers=[[-1]], **changes)


def test_a_metric_that_is_not_measured_is_refused_by_name(tmp_path: Path) -> None:
    path = small(tmp_path, target={"task": "things", "metric": "best group"})
    with pytest.raises(InputError, match="things has no best group; it has accuracy"):
        tune_recipe(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_pictures_under_another_name_are_refused_and_no_result_is_shown(tmp_path: Path) -> None:
    path = small(tmp_path)
    shutil.rmtree(tmp_path / "test")
    pictures(tmp_path / "test", 24, 1)
    with pytest.raises(InputError, match="things: 24 of 24 pictures are among the validation pictures"):
        tune_recipe(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_edits_of_the_text_tower_are_refused(tmp_path: Path) -> None:
    edits = "edits=[{rule: words, tower: text, concepts: [boat]}]"
    with pytest.raises(InputError, match="tune searches edits of the vision tower"):
        tune_recipe(small(tmp_path), tmp_path / "out", overrides=[edits])


def test_without_optuna_the_extra_is_named(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r'optuna is not installed: pip install "sith-hf\[tune\]"'):
        tune_recipe(recipe, tmp_path / "out")


def test_concepts_are_tuned_without_data(tmp_path: Path) -> None:
    leaves = {"world": "leaves", "seed": 0, "pictures": 40}
    path = tunable(
        tmp_path, target={"concepts": ["sea", "road"], "images": leaves}, collateral={"limit": 0.1}, validation={},
        layers=None, thresholds=[0.1, 0.1], strengths=[1.0, 1.0],
    )  # fmt: skip
    shutil.rmtree(tmp_path / "validation")
    found = tune_recipe(path, tmp_path / "out", overrides=["evaluate=null"])
    assert found.evaluation is None
    assert not (tmp_path / "out" / "results.json").exists()
    chosen = found.record["chosen"]
    assert found.record["collateral"]["title"] == "estimated drift"
    assert chosen["collateral"] <= 0.1
    assert 0 < chosen["target"] <= 1
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["validation"]["concepts"]["images"] == 40


def test_few_images_for_concepts_are_refused(tmp_path: Path) -> None:
    leaves = {"world": "leaves", "seed": 0, "pictures": 31}
    path = small(tmp_path, target={"concepts": ["sea"], "images": leaves}, collateral={}, validation={})
    with pytest.raises(InputError, match="has 31 readable images, and at least 32 are needed"):
        tune_recipe(path, tmp_path / "out")


def test_a_target_without_a_stand_in_is_ranked_one_by_one(tmp_path: Path) -> None:
    target = {"task": "captions", "metric": "recall at 1", "part": "image to texts"}
    task = "{kind: retrieval, name: captions, ks: [1], data: {dataset: test, columns: {caption: label}}}"
    path = small(
        tmp_path,
        target=target,
        collateral={},
        validation={"captions": {"dataset": "validation"}},
        thresholds=[0.5, 0.5],
    )
    found = tune_recipe(path, tmp_path / "out", overrides=[f"evaluate.tasks=[{task}]", "edits.0.threshold=0.2"])
    assert found.record["target"]["title"] == "captions: recall at 1, image to texts"


def test_a_work_folder_is_continued_with_more_trials(recipe: Path, tmp_path: Path) -> None:
    stopped(recipe, tmp_path / "out", tuning, "measure_edit", 1)
    # The second of two new trials: the others are not measured again.
    stopped(recipe, tmp_path / "out", tuning.Bench, "values", 2, "tune.trials=12")
    assert tune_recipe(recipe, tmp_path / "out", overrides=["tune.trials=11"]).record["trials"] == 11
