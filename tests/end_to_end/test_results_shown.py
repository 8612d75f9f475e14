"""Results in a notebook: short text, HTML that obeys nothing hostile, and bounded sizes."""

import re
from pathlib import Path

import pytest
import torch

from sith_hf import ConceptDictionary, Evaluation, SithEditor
from sith_hf.checkpoint import SavedCheckpoint
from sith_hf.evaluation.task_result import Difference, MetricResult, TaskResult
from sith_hf.gains import Impact
from sith_hf.recipe.result import RunResult
from sith_hf.recipe.tower_run import TowerResult
from tests.core.test_html import TAGS
from tests.core.test_tables import HOSTILE, obeyed
from tests.support.html import Page, unsafe
from tests.support.made import WORDS, tiny_editor
from tests.support.tiny import byte_tokenizer, clip_model

BAD = TAGS[1]
# A dictionary takes every text but half a surrogate pair.
NAMES = [*TAGS, *(text for name, text in HOSTILE.items() if "surrogate" not in name)]


def evaluation(metrics: int = 3, tasks: int = 1, variants: tuple[str, ...] = ("base", "edited", BAD)) -> Evaluation:
    """Results with hostile names."""
    values = {name: 1 / (3 + number) for number, name in enumerate(variants)}
    change = (Difference("edited", "base", 1 / 7, 0.1, 0.2), Difference(BAD, "base", -1 / 7, None, None))
    found = [MetricResult("accuracy", None, 10, values, change)]
    found += [MetricResult("accuracy", f"group {BAD} {n}", 10, values, change) for n in range(metrics)]
    task = TaskResult(BAD, "zero-shot", BAD, BAD, 1000, None, {BAD: 3}, (BAD,), tuple(found))
    return Evaluation(variants, {}, (task,) * tasks)


@pytest.fixture(scope="module")
def editor(tmp_path_factory) -> SithEditor:
    folder = tmp_path_factory.mktemp("tiny")
    made = SithEditor.from_model(clip_model(), byte_tokenizer(folder), name=BAD)
    made.decompose(ConceptDictionary.from_texts([*NAMES, *WORDS]), layers=[-1])
    return made


@pytest.fixture(scope="module")
def results(editor, tmp_path_factory):
    """One of each result, by name."""
    edit = editor.suppress(*NAMES[:3], top=4)
    vectors = editor.edit().vectors(0.5, layers=[2])
    impact = Impact(3, 128, 1 / 3, None, None)
    run = RunResult(
        Path(BAD) / "out",
        (TowerResult(editor.decomposition, edit.gains, impact),),
        edit.spec,
        evaluation(),
        SavedCheckpoint(Path(BAD), {BAD: 0.1}, (BAD,), {BAD: BAD}),
    )
    tuned = tiny_editor(tmp_path_factory.mktemp("tuned"))
    with torch.no_grad():
        tuned.model.vision_model.encoder.layers[2].self_attn.out_proj.weight.mul_(1.1)
    words = ConceptDictionary.from_texts([*NAMES, *WORDS])
    found = {
        "editor": editor,
        "dictionary": words,
        "many concepts": ConceptDictionary.from_texts([*NAMES, *(f"{BAD}{n}" for n in range(10_000))]),
        "edit": edit,
        "spec": edit.spec,
        "large spec": vectors.spec,
        "revert": edit.spec.inverse(),
        "empty spec": edit.spec * 0,
        "matches": editor.find(NAMES[0]),
        "evaluation": evaluation(),
        "large evaluation": evaluation(500, 20, ("base", "edited", BAD, *map(str, range(50)))),
        "run": run,
        "change": editor.compare(tuned, words),
    }
    return found | {"short gains": edit.gains, "short impact": impact, "short copy": run.saved}


def test_no_text_is_long_or_obeyed(results):
    for name, item in results.items():
        assert len(repr(item)) < (5000 if name == "matches" else 700), name
        assert obeyed(repr(item)) == [], name
        assert not re.search(r"\d\.\d{5}", repr(item)), name
        assert "tensor(" not in repr(item), name
        assert "Linear" not in repr(item), name


def test_html_is_bounded_and_obeys_nothing(results):
    shown = {name: item for name, item in results.items() if not name.startswith("short")}
    for name, item in shown.items():
        html = item._repr_html_()
        page = Page.of(html)
        assert unsafe(page) == [], name
        assert obeyed(page.text) == [], name
        assert len(html) < 120_000, name
        assert not re.search(r">[^<]*\d\.\d{5}", html), name
    assert len(shown) > 10


def test_what_is_left_out_is_said(results):
    assert "and 12 more" in results["large spec"]._repr_html_()
    assert "and 485 more" in results["large evaluation"]._repr_html_()
    assert "15 more tasks" in results["large evaluation"]._repr_html_()
    assert "and 10,001 more" in Page.of(results["many concepts"]._repr_html_()).text
    assert "changes nothing" in results["empty spec"]._repr_html_()


def test_an_evaluation_says_what_it_found(results):
    assert "accuracy 0.333 -> 0.250" in repr(results["evaluation"])
    text = Page.of(results["evaluation"]._repr_html_()).text
    assert "+0.143" in text
    assert "[+0.100, +0.200]" in text
    assert "skipped 3" in text


def test_an_evaluation_as_a_table(results):
    frame = results["evaluation"].to_pandas()
    assert len(frame) == 4 * 3
    row = frame[(frame.variant == "edited") & frame.part.isna()].iloc[0]
    assert (row.value, row.difference, row.low, row.high, row["samples"]) == (0.25, 1 / 7, 0.1, 0.2, 10)
    assert frame[frame.variant == "base"].difference.isna().all()


def test_an_editor_says_what_it_is_of(results, tmp_path):
    assert "3 layers, 4 heads" in repr(results["editor"])
    assert "layers [2]" in repr(results["editor"])
    assert "none yet" in repr(tiny_editor(tmp_path))
