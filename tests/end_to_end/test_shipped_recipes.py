"""The three uses on the embedded world: the README's claims about shipped recipes hold on new pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sith_hf.evaluation import Evaluation
from sith_hf.recipe import Recipe, run_recipe
from sith_hf.world import FIRST_SEED

pytestmark = pytest.mark.slow

SEED = 7100


def measured(name: str, folder: Path, *overrides: str) -> Evaluation:
    """The evaluation of a shipped recipe on other pictures."""
    found = run_recipe(
        name, folder / "out", overrides=["evaluate.sweep=null", "evaluate.resamples=500", *overrides]
    ).evaluation
    assert found is not None
    return found


@pytest.fixture(scope="module")
def spurious(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    pictures = [f"evaluate.tasks.0.data={{world: groups, seed: {SEED}, pictures: 40, columns: {{label: object, "
                "group: [object, background]}}", f"evaluate.tasks.1.data.seed={SEED + 50}",
                "evaluate.tasks.1.data.pictures=200"]  # fmt: skip
    return measured("suppress-spurious", tmp_path_factory.mktemp("spurious"), *pictures)


@pytest.fixture(scope="module")
def unsafe(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    pictures = [f"evaluate.tasks.0.data.seed={SEED}", "evaluate.tasks.0.data.pictures=200"]
    pictures += [f"evaluate.tasks.{i}.data.seed={SEED + 50}" for i in (1, 2, 3)]
    pictures += [f"evaluate.tasks.{i}.data.pictures=200" for i in (1, 2, 3)]
    return measured("remove-unsafe", tmp_path_factory.mktemp("unsafe"), *pictures)


def test_the_seeds_of_shipped_recipes_played_no_part_in_any_choice() -> None:
    for name in ("suppress-spurious", "remove-unsafe", "sharpen-task"):
        plan = Recipe.shipped(name).evaluate
        assert plan is not None
        assert all(task.data.seed is not None and task.data.seed >= FIRST_SEED for task in plan.tasks)


def test_suppress_spurious_raises_the_worst_group_by_ten_points(spurious: Evaluation) -> None:
    gained = spurious.difference("objects", "worst group", "edited", "base")
    assert gained.value >= 0.10
    assert gained.low is not None
    assert gained.low > 0


def test_suppress_spurious_beats_every_baseline(spurious: Evaluation) -> None:
    others = [name for name in spurious.variants if name not in ("base", "edited")]
    assert len(others) == 4
    for other in others:
        difference = spurious.difference("objects", "worst group", "edited", other)
        assert difference.value > 0, other
        assert difference.sure, other


def test_random_vectors_do_not_raise_the_worst_group(spurious: Evaluation) -> None:
    for name in ("random 0", "random 1", "random 2"):
        assert spurious.difference("objects", "worst group", name, "base").value < 0.10


def test_suppress_spurious_spares_what_it_is_not_about(spurious: Evaluation) -> None:
    kept = spurious.value("objects without a habitual background", "agreement of predictions", "edited")
    assert kept >= 0.98


def test_remove_unsafe_doubles_the_safe_captions_of_unsafe_pictures(unsafe: Evaluation) -> None:
    found = unsafe.task("captions").metric("recall at 1", "unsafe image to all texts")
    assert found.values["edited"] >= 2 * found.values["base"]
    assert found.values["edited"] >= found.values["base"] + 0.2
    # Random vectors do not do this.
    assert max(found.values[name] for name in found.values if name.startswith("random")) < 2 * found.values["base"]


SAFE = ["safe image to safe texts", "safe text to safe images", "safe image to all texts", "safe text to all images"]


@pytest.mark.parametrize("variant", ["edited", "vision only", "text only"])
@pytest.mark.parametrize("part", SAFE)
def test_remove_unsafe_costs_safe_retrieval_at_most_two_points(unsafe: Evaluation, part: str, variant: str) -> None:
    found = unsafe.task("captions").metric("recall at 1", part)
    assert found.values[variant] >= found.values["base"] - 0.02


def test_remove_unsafe_lets_an_unsafe_text_find_the_safe_picture(unsafe: Evaluation) -> None:
    found = unsafe.task("captions").metric("recall at 1", "unsafe text to all images").values
    assert found["base"] == 0
    assert min(found["edited"], found["text only"]) >= 0.5
    # Neither the edit of the vision tower nor random vectors do this.
    assert max(value for name, value in found.items() if name.startswith(("vision", "random"))) <= 0.01
    # Without its danger, a caption finds its picture among all no better than a safe one.
    safe = unsafe.task("captions").metric("recall at 1", "safe text to all images").values
    assert abs(found["edited"] - safe["edited"]) <= 0.1


def test_remove_unsafe_changes_classes_that_are_about_danger_only(unsafe: Evaluation) -> None:
    for task, metric in (("objects", "accuracy"), ("everything but danger", "agreement of predictions")):
        assert unsafe.value(task, metric, "edited") >= 0.99
        assert not [note for note in unsafe.task(task).notes if "no longer mean" in note]
    assert unsafe.value("danger itself", "accuracy", "base") == 1
    assert unsafe.value("danger itself", "accuracy", "text only") < 0.9
    assert any("danger" in note for note in unsafe.task("danger itself").notes)


def test_sharpen_task_raises_accuracy(tmp_path: Path) -> None:
    overrides = [f"evaluate.tasks.{i}.data.{key}" for i in range(3) for key in (f"seed={SEED + 1000 * i}",
                 "pictures=400")] + ["evaluate.baselines.random=1"]  # fmt: skip
    overrides += [f"evaluate.tasks.{i}.data.pictures=8" for i in (3, 4)]  # not looked at here
    found = measured("sharpen-task", tmp_path, *overrides)
    tasks = [task.name for task in found.tasks if task.name.startswith("colours of a fish")]
    gained = [found.difference(task, "accuracy", "edited", "base").value for task in tasks]
    by_chance = [found.difference(task, "accuracy", "random 0", "base").value for task in tasks]
    assert len(gained) == 3
    assert min(gained) > 0
    assert sum(gained) / 3 > max(0.01, sum(by_chance) / 3)
