"""The figures of an evaluation have the same digits in the table of the command line and in a card."""

from __future__ import annotations

import re

import pytest

from sith_hf.cards.markdown import environment
from sith_hf.cards.measured import by_data, measured_rows
from sith_hf.evaluation import Evaluation
from sith_hf.evaluation.result import Difference, MetricResult, TaskResult

# Values that two ways of rounding write in two ways.
VALUES = (0.66249, 0.6625, 0.0005, 0.99951, 1.0, 0.12345678, 0.0)


def evaluation(values: tuple[float, ...], **more: float) -> Evaluation:
    """One metric for each value: the base has half of it, and the variants in ``more`` theirs."""
    metrics = []
    for number, value in enumerate(values):
        change = Difference("edited", "base", value - value / 2, value / 2 - 0.10049, value / 2 + 0.00051)
        found = {"base": value / 2, "edited": value, **more}
        metrics.append(MetricResult(f"metric-{number}", None, 1234, found, (change,)))
    task = TaskResult("task", "zero-shot", "me/boats", "test", 1234, None, {}, (), tuple(metrics))
    return Evaluation(("base", "edited", *more), {}, (task,))


def figures(line: str) -> list[str]:
    return re.findall(r"[-+]?\d\.\d+", line)


def shown(found: Evaluation) -> list[str]:
    """The table of a card, in lines."""
    template = environment().from_string('{% import "_results.md.j2" as m %}{{ m.results(groups, 100) }}')
    return template.render(groups=by_data(measured_rows(found.card())["results"])).splitlines()


def test_they_agree():
    found = evaluation(VALUES)
    table = {
        line.split()[0]: figures(line) for line in found.table().splitlines() if line.strip().startswith("metric-")
    }
    card = {line.split("|")[1].split()[-1]: figures(line) for line in shown(found) if "metric-" in line}
    assert len(table) == len(VALUES)
    assert {name.replace("\\", ""): row for name, row in card.items()} == table


@pytest.mark.parametrize("draws", [1, 3])
def test_random_draws_are_there_as_their_mean(draws):
    found = evaluation((0.75,), **{f"random {i}": 0.5 + i / 8 for i in range(draws)}, **{"whole heads": 0.25})
    (row,) = found.card()["results"]
    assert row["baselines"] == {"random vectors": 0.5 + (draws - 1) / 16, "whole heads": 0.25}
    lines = shown(found)
    assert any("| base | random vectors | whole heads | edited |" in line for line in lines)
    assert any("| 1,234 | 0.375 |" in line for line in lines)


def test_without_baselines_there_is_none():
    assert "baselines" not in evaluation((0.75,)).card()["results"][0]
