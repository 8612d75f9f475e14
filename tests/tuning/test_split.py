"""Nothing is tuned on data that are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from sith_hf.errors import InputError
from sith_hf.images import DatasetSettings
from sith_hf.recipe import Recipe
from sith_hf.tuning.split import check_pictures, concept_images, same_source, validation_tasks
from tests.support.tuning import TUNE


def recipe(**tune: object) -> Recipe:
    """A recipe with a zero-shot and a collateral task."""
    return Recipe.from_data(
        {
            "title": "t",
            "edits": [{"rule": "vectors", "gain": 0.0, "layers": [0]}],
            "evaluate": {
                "tasks": [
                    {"kind": "zero-shot", "name": "things", "classes": ["a", "b"],
                     "data": {"dataset": "test", "columns": {"label": "kind"}, "where": {"clear": "yes"}}},
                    {"kind": "collateral", "name": "others", "data": {"world": "balanced", "seed": 3, "pictures": 4}},
                ]
            },
            "tune": {**TUNE, **tune},
        },
        "here",
    )  # fmt: skip


def test_the_tasks_are_those_of_evaluate_on_other_data() -> None:
    found = validation_tasks(recipe(), Path())
    assert list(found) == ["things", "others"]
    data = found["things"].data
    assert (data.dataset, data.columns.label, dict(data.where)) == ("validation", "kind", {"clear": "yes"})
    given = {"dataset": "validation", "columns": {"label": "name"}, "where": {}}
    data = validation_tasks(recipe(validation={**TUNE["validation"], "things": given}), Path())["things"].data
    assert (data.columns.label, dict(data.where)) == ("name", {})


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"validation": {"others": {"dataset": "validation"}}}, "things has no validation data, and nothing may be"),
        ({"validation": {}}, "things has no validation data"),
        ({"target": {"task": "birds"}}, "tune.target.task: birds is not measured: evaluate has things, others"),
        ({"collateral": {"task": "birds"}}, "tune.collateral.task: birds is not measured"),
        ({"validation": {**TUNE["validation"], "birds": {"dataset": "v"}}}, "birds is neither the task of the target"),
        (
            {"validation": {**TUNE["validation"], "things": {"dataset": "test"}}},
            "tune.validation.things: these are the data of the task things",
        ),
        (
            {"validation": {**TUNE["validation"], "things": {"world": "balanced", "seed": 3, "pictures": 9}}},
            "tune.validation.things: these are the data of the task others",
        ),
    ],
)
def test_what_is_reported_or_missing_is_refused(tune: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validation_tasks(recipe(**tune), Path())


def test_images_for_concepts_are_none_that_are_reported(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    own = recipe(target={"concepts": ["sea"], "images": {"dataset": "own"}})
    found = concept_images(own, tmp_path)
    assert found is not None
    assert found.dataset == str(tmp_path / "own")
    assert concept_images(recipe(), tmp_path) is None
    with pytest.raises(InputError, match=r"tune.target.images: these are the data of the task things of evaluate"):
        concept_images(recipe(target={"concepts": ["sea"], "images": {"dataset": "test"}}), tmp_path)


def test_a_recipe_without_a_search_is_refused() -> None:
    with pytest.raises(InputError, match="no part tune"):
        validation_tasks(Recipe.shipped("suppress-spurious"), Path())


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"target": {"metric": "accuracy"}}, "name one target"),
        ({"target": {"task": "things", "concepts": ["sea"]}}, "name one target"),
        ({"thresholds": [0.5, 0.2]}, "thresholds must be two shares"),
        ({"strengths": [0.0, 1.0]}, "strengths must be two numbers"),
        ({"trials": 0}, "tune.trials"),
        ({"max_vectors": 0}, "tune.max_vectors"),
        ({"layers": []}, "tune.layers"),
        ({"layers": [[]]}, "each set of layers needs at least one"),
        ({"sampler": "grid"}, "tune.sampler"),
        ({"trails": 5}, "unknown key tune.trails; did you mean trials"),
    ],
)
def test_settings_out_of_range_are_refused(tune: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(**tune)


WORLD = {"world": "groups", "seed": 7, "pictures": 5}


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (WORLD, {**WORLD, "pictures": 9}, True),
        (WORLD, {**WORLD, "seed": 8}, False),
        (WORLD, {**WORLD, "world": "balanced"}, False),
        (WORLD, {"dataset": "a"}, False),
        ({"dataset": "a"}, {"dataset": "a", "limit": 5}, True),
        ({"dataset": "a"}, {"dataset": "./b/../a"}, False),  # neither exists: names on the Hub
        ({"dataset": "user/Birds"}, {"dataset": "user/birds"}, True),
        ({"dataset": "a", "split": "train"}, {"dataset": "a", "split": "test"}, False),
        ({"dataset": "a", "split": "train"}, {"dataset": "a"}, True),
        ({"dataset": "a", "split": "train", "revision": "x"}, {"dataset": "a", "split": "train"}, True),
        ({"dataset": "a", "split": "train[:80%]"}, {"dataset": "a", "split": "train[80%:]"}, False),
        ({"dataset": "a", "split": "train[:80%]"}, {"dataset": "a", "split": "train[ 70% : ]"}, True),
        ({"dataset": "a", "split": "train[:80]"}, {"dataset": "a", "split": "train[80:90]"}, False),
        ({"dataset": "a", "split": "train[:80]"}, {"dataset": "a", "split": "train[50%:]"}, True),
        ({"dataset": "a", "split": "train[:80]"}, {"dataset": "a", "split": "train[-10:]"}, True),
        ({"dataset": "a", "split": "test+train[:1%]"}, {"dataset": "a", "split": "train[5%:]+test[:2]"}, True),
        ({"dataset": "a", "name": "x"}, {"dataset": "a", "name": "y"}, False),
        ({"dataset": "a", "where": {"fold": 1}}, {"dataset": "a", "where": {"fold": (0, 2)}}, False),
        ({"dataset": "a", "where": {"fold": 1}}, {"dataset": "a", "where": {"fold": (1, 2)}}, True),
        ({"dataset": "a", "where": {"fold": 1}}, {"dataset": "a", "where": {"year": 2}}, True),
    ],
)
def test_sources_are_compared_by_name(one: dict[str, object], two: dict[str, object], same: bool) -> None:
    first, second = DatasetSettings(**one), DatasetSettings(**two)
    assert same_source(first, second) is same
    assert same_source(second, first) is same


def test_a_link_is_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    there = [DatasetSettings(dataset=str(tmp_path / name)) for name in ("a", "b", "b/../a")]
    assert same_source(there[0], there[1])
    assert same_source(there[1], there[2])


def test_a_test_with_validation_pictures_is_refused() -> None:
    seen = [f"{i}" for i in range(100)]
    check_pictures(seen, ["1", *(f"new {i}" for i in range(200))], "t")
    with pytest.raises(InputError, match="t: 3 of 200 pictures are among the validation pictures"):
        check_pictures(seen, ["1", "2", "3", *(f"new {i}" for i in range(197))], "t")
