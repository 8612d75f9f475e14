"""The paper's recipes hold its settings; their data are not on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sith_hf.errors import InputError
from sith_hf.evaluation.plan import ZeroShot
from sith_hf.judges import LanguageModelJudgeSettings
from sith_hf.recipe import Recipe, run_fidelity, run_recipe, shipped_names
from sith_hf.recipe.edit_rules import RelevanceEdit, ThresholdEdit
from tests.support.cli import refused, sith, succeeded
from tests.support.tiny import save_clip

PAPER = [name for name in shipped_names() if name.startswith("paper/")]


PHOTOS = (
    "bad", "good", "low resolution", "blurry", "pixelated", "jpeg corrupted", "bright", "dark", "black and white",
    "cropped", "close-up",
)  # fmt: skip
THINGS = ("large", "small", "clean", "dirty", "nice", "cool", "weird", "hard to see")
MEDIA = (
    "a painting", "a drawing", "a sketch", "a doodle", "a rendering", "a rendition", "a sculpture", "a tattoo", "art",
    "graffiti", "itap",
)  # fmt: skip
MADE = ("cartoon", "origami", "embroidered", "plastic", "plushie", "toy")


def imagenet_templates() -> set[str]:
    """OpenAI's 80 prompts for ImageNet, by kind."""
    both = ("a", "the")
    found = {f"a {kind} photo of {x} {{}}." for kind in PHOTOS for x in both}
    found |= {f"a photo of {x} {kind} {{}}." for kind in THINGS for x in both}
    found |= {f"a photo of {x} {{}}." for x in (*both, "one", "my", "many")} | {"itap of my {}."}
    found |= {f"{kind} of {x} {{}}." for kind in MEDIA for x in both}
    found |= {f"{x} {kind} {{}}." for kind in MADE for x in both}
    return found | {f"{x} {{}} in a video game." for x in both}


def zero_shot(name: str) -> ZeroShot:
    plan = Recipe.shipped(name).evaluate
    assert plan is not None
    (task,) = plan.tasks
    assert isinstance(task, ZeroShot)
    return task


@pytest.mark.parametrize("name", PAPER)
def test_model_layers_and_pole_are_the_papers(name: str) -> None:
    recipe = Recipe.shipped(name)
    assert recipe.base.model == "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
    assert recipe.decompose.layers in ((-4, -3, -2, -1), (20, 21, 22, 23))
    assert (recipe.decompose.poles, recipe.dictionary.file) == ("+", "conceptnet.txt")


def test_waterbirds_averages_imagenets_prompts() -> None:
    templates = zero_shot("paper/waterbirds").templates
    assert len(templates) == 80
    assert set(templates) == imagenet_templates()


@pytest.mark.parametrize(("name", "rows"), [("paper/flowers-102", 2463), ("paper/dtd", 1692)])
def test_test_splits_have_coops_sizes(name: str, rows: int) -> None:
    assert zero_shot(name).data.rows == rows


@pytest.mark.parametrize("name", ["paper/waterbirds", "paper/visu"])
def test_the_judge_thinks_as_long_as_the_papers(name: str) -> None:
    (step,) = Recipe.shipped(name).edits
    judge = getattr(step, "judge", None)
    assert isinstance(judge, LanguageModelJudgeSettings)
    assert (judge.reasoning_effort, judge.temperature, judge.max_tokens) == ("high", None, None)


def test_published_scores_take_the_judges_place() -> None:
    recipe = Recipe.from_file("paper/waterbirds", ["edits.0.judge={by: file, path: scores.csv}"])
    (step,) = recipe.edits
    assert isinstance(step, ThresholdEdit)
    assert step.judge.by == "file"
    assert (step.threshold, step.gain) == (3, 0)


@pytest.mark.parametrize("name", ["paper/flowers-102", "paper/dtd", "paper/fgvc-aircraft"])
def test_relevance_has_the_papers_settings(name: str) -> None:
    (step,) = Recipe.shipped(name).edits
    assert isinstance(step, RelevanceEdit)
    assert (step.sparsity, step.coherence_weight, step.floor, step.offset) == (10, 0.3, 0.8, 0.3)
    assert step.leave_out is None


def test_the_fidelity_table_has_the_papers_grid() -> None:
    recipe = Recipe.shipped("paper/fidelity-table")
    assert recipe.fidelity is not None
    assert recipe.fidelity.sparsities == (5, 10, 20, 50)
    assert recipe.fidelity.coherence_weights == (0.2, 0.3, 0.4)
    assert recipe.decompose.layers == (20, 21, 22, 23)


def test_a_recipe_measures_fidelity(tmp_path: Path) -> None:
    save_clip(tmp_path / "base")
    texts = ["red", "green", "blue", "sea", "dog", "boat", "car"]
    (tmp_path / "words.txt").write_text("\n".join(texts))
    data: dict[str, Any] = {
        "extends": "paper/fidelity-table",
        "base": {"model": "base"},
        "dictionary": {"file": "words.txt"},
        "decompose": {"layers": [-1], "rank": 2, "image_mean": None},
        "fidelity": {"methods": ["comp", "omp"], "sparsities": [2, 3], "draws": 9},
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(data))
    ran = sith("run", tmp_path / "mine.yaml", "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    rows = [(r["method"], r["coherence_weight"], r["sparsity"]) for r in ran.data["fidelity"]["results"]]
    assert rows == [*(("comp", w, k) for w in (0.2, 0.3, 0.4) for k in (2, 3)), ("omp", None, 2), ("omp", None, 3)]
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(files) == {"fidelity.json", "vectors.csv", "recipe.yaml", "concepts.txt"}
    assert len(files["vectors.csv"].splitlines()) == 1 + len(rows) * ran.data["fidelity"]["explanations"]
    # The copy repeats the run without the words that it was made from.
    (tmp_path / "words.txt").unlink()
    assert sith("run", tmp_path / "out" / "recipe.yaml", "-o", tmp_path / "again").code == 0
    for name in ("fidelity.json", "vectors.csv", "concepts.txt"):
        again = next((tmp_path / "again").rglob(name))
        assert again.read_bytes() == files[name]
    assert "already done" in succeeded(sith("run", tmp_path / "out" / "recipe.yaml", "-o", tmp_path / "again")).err
    other = ("--set", "fidelity.seed=1")
    assert "--overwrite" in refused(sith("run", tmp_path / "out" / "recipe.yaml", *other, "-o", tmp_path / "again"))


def test_a_recipe_measures_or_edits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="edits nothing"):
        Recipe.from_text("title: t\nfidelity: {}\nedits: [{concepts: [a]}]\n", "here")
    with pytest.raises(InputError, match="at least one edit"):
        Recipe.from_text("title: t\n", "here")
    with pytest.raises(InputError, match="run_fidelity"):
        run_recipe("paper/fidelity-table", tmp_path / "out")
    with pytest.raises(InputError, match="run_recipe"):
        run_fidelity(Recipe.shipped("demo"), tmp_path / "out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_table_replaces_only_an_earlier_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "mine.yaml").write_text(
        "title: t\ndictionary: {texts: [sea, road, boat, dog]}\ndecompose: {layers: [-1], rank: 1}\n"
        "fidelity: {methods: [top-k], sparsities: [2], draws: 100}\n"
    )
    plan, home = Recipe.load(tmp_path / "mine.yaml")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "out"):
        with pytest.raises(InputError, match=r"contains the current folder or the recipe|not written by"):
            run_fidelity(plan, place, home, overwrite=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    (tmp_path / "out" / "mine.txt").unlink()
    for _ in range(2):
        assert run_fidelity(plan, tmp_path / "out", home, overwrite=True).folder == tmp_path / "out"
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(InputError, match="contains the current folder"):
        run_fidelity(plan, ".", home, overwrite=True)


def test_another_split_than_the_papers_is_refused(tmp_path: Path) -> None:
    overrides = [
        "evaluate.tasks.0.data.pictures=2", "decompose.layers=[-1]", "edits.0.layers=[-1]", "evaluate.sweep=null",
        "evaluate.baselines={}", "evaluate.tasks.0.data.rows=99",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"has 16 rows, the plan expects 99"):
        run_recipe("suppress-spurious", tmp_path / "out", overrides=overrides)
