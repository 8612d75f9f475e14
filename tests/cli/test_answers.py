"""The first line of a result is the answer; the rest comes with ``--details``, and JSON is whole without it."""

from __future__ import annotations

from importlib import import_module

import pytest

from sith_hf.cli import COMMANDS
from sith_hf.evaluation import Evaluation, answers
from sith_hf.evaluation.task_result import Difference, MetricResult, TaskResult
from tests.support.cli import sith, succeeded

ANSWERS = {
    ("show", "{work}/d"): "No vector of 96 has words better than chance",
    ("show", "{work}/spec"): "of 96 vectors of the vision tower",
    ("find", "{work}/d", "sea"): "sea: no vector has words better than chance; ",
    ("find", "{work}/d", "sea", "--fdr", "0.999"): "sea: ",
    ("verify", "{work}/edited", "--base", "{work}/clip"): "verified: identical to the base except ",
    ("verify", "{work}/clip", "--base", "{work}/clip", "--spec", "{work}/spec"): "NOT verified: ",
    ("diff", "{work}/spec", "{work}/spec"): "the same edit: 0 vectors differ",
    ("diff", "{work}/clip", "{work}/other"): " tensors differ, ",
    ("compose", "{work}/spec", "{work}/spec", "-o", "{out}"): "of 96 vectors of the vision tower",
    ("export-adapter", "{work}/spec", "-o", "{out}"): "a LoRA adapter of rank ",
    ("judge", "{work}/d", "--topic", "water", "--concepts", "sea,ocean", "-o", "{out}"): "water, by ",
    ("recipes",): " recipes come with sith-hf; run one with ",
    ("cache",): " of concepts, ",
}


@pytest.mark.parametrize("words", ANSWERS, ids=" ".join)
def test_the_first_line_is_the_answer(work, tmp_path, words):
    command = [word.format(work=work, out=tmp_path / "out") for word in words]
    ran = sith(*command)
    first = ran.out.splitlines()[0]
    assert ANSWERS[words] in first
    assert "─" not in first
    if "--details prints more" not in ran.err:
        return
    whole = sith(*command, "--details")
    assert whole.out.splitlines()[0] == first
    assert len(whole.out.splitlines()) > len(ran.out.splitlines())
    assert whole.out.splitlines()[-1] == ran.out.splitlines()[-1] or len(ran.out.splitlines()) == 1
    assert "--details" not in whole.err


def test_json_is_whole_without_details(work):
    plain, detailed = (succeeded(sith("find", work / "d", "sea", "--json", *more)) for more in ((), ("--details",)))
    assert plain.data == detailed.data
    assert plain.err == detailed.err == ""
    assert len(plain.data) > 6  # the control: text shows six rows at most


def test_every_command_with_details_says_the_same_about_them():
    found = {}
    for name, (module, function) in ((name, (f"sith_hf.cli.{m}", m)) for name, (m, _) in COMMANDS.items()):
        command = getattr(import_module(module), function)
        found[name] = {option.help for option in command.params if option.name == "details"}
    assert {name for name, said in found.items() if not said} == {
        "image-mean", "explore", "card", "verify", "import-scores", "recipes",
    }  # fmt: skip
    assert len(set.union(*found.values())) == 1


def evaluation(*metrics):
    """An evaluation of one task for each metric: name, part, base, edited, and the interval of the difference."""
    tasks = []
    for number, (name, old, new, low, high) in enumerate(metrics):
        difference = Difference("edited", "base", new - old, low, high)
        item = MetricResult(name, None, 10, {"base": old, "edited": new}, (difference,))
        tasks.append(TaskResult(f"t{number}", "zero-shot", "d", "", 10, None, {}, (), (item,)))
    return Evaluation(("base", "edited"), {}, tuple(tasks))


@pytest.mark.parametrize(
    ("metric", "line"),
    [
        (("worst group", 0.312, 0.688, 0.3, 0.45), "31 → 69 % (t0: +38 points, 95 % interval +30 to +45)"),
        (("accuracy", 0.95, 0.948, -0.01, 0.006), "95.0 → 94.8 % (t0: -0.2 points, 95 % interval -1.0 to +0.6)"),
        (("accuracy", 1.0, 1.0, None, None), "100.0 → 100.0 % (t0: +0.0 points)"),
        (("drift, mean", 0.0, 0.0123, 0.01, 0.02), "0.000 → 0.012 (t0: +0.012, 95 % interval +0.010 to +0.020)"),
    ],
)  # fmt: skip
def test_an_evaluation_in_one_line(metric, line):
    assert answers(evaluation(metric)) == [f"{metric[0]} {line}"]


def test_the_worst_group_comes_first():
    found = answers(evaluation(("accuracy", 0.5, 0.6, None, None), ("worst group", 0.1, 0.9, None, None)))
    assert [line.split()[0] for line in found] == ["worst", "accuracy"]
    assert answers(Evaluation(("base", "edited"), {}, ())) == []
