"""The metrics as classes of ``evaluate``: offline, equal to the plain functions, imported late, no file left."""

from __future__ import annotations

import os
import subprocess
import sys

import datasets
import evaluate
import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPForImageClassification, pipeline

from sith_hf.evaluation import ZeroShot, metrics
from sith_hf.evaluation import evaluate as run
from sith_hf.evaluation.metric_classes import ClassAccuracy, EmbeddingDrift, GroupAccuracy, RetrievalRecall
from sith_hf.images import DatasetSettings
from tests.support.evaluating import CLASSES, dataset, seers, text_model
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.tiny import image_processor, vision_model

RNG = np.random.default_rng(0)
PREDICTED, TRUTH, PARTS = (RNG.integers(0, 3, 60) for _ in range(3))
GROUPS = [f"group {part}" for part in PARTS]


def unit(count):
    rows = RNG.normal(size=(count, 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_accuracy_of_classes_and_groups():
    found = ClassAccuracy().compute(predictions=PREDICTED, references=TRUTH)
    by_class = metrics.accuracy_by(PREDICTED, TRUTH, TRUTH)
    assert found["accuracy"] == metrics.accuracy(PREDICTED, TRUTH)
    assert found["by class"] == by_class
    assert found["average over classes"] == pytest.approx(sum(by_class.values()) / 3)
    found = GroupAccuracy().compute(predictions=PREDICTED, references=TRUTH, groups=GROUPS)
    by_group = metrics.accuracy_by(PREDICTED, TRUTH, PARTS)
    assert found["by group"] == {f"group {part}": value for part, value in by_group.items()}
    assert found["worst group"] == min(by_group.values()) < found["average over groups"] < max(by_group.values())


def test_recall_and_drift():
    queries, pool = unit(30), unit(30)
    ranks, drift = metrics.ranks(queries, pool, np.arange(30)), metrics.drift(queries, pool)
    found = RetrievalRecall().compute(predictions=ranks, ks=(1, 5))
    assert found == {"recall at 1": metrics.recall_at(ranks, 1), "recall at 5": metrics.recall_at(ranks, 5)}
    assert found["recall at 5"] < 1
    expected = {f"drift, {name}": value for name, value in metrics.drift_summary(drift).items()}
    assert EmbeddingDrift().compute(predictions=drift) == expected
    assert expected["drift, mean"] > 0


def test_instances_fed_in_turn_do_not_mix():
    whole = ClassAccuracy().compute(predictions=PREDICTED, references=TRUTH)
    one, other = ClassAccuracy(), ClassAccuracy()
    for start in range(0, 60, 20):
        part = slice(start, start + 20)
        one.add_batch(predictions=PREDICTED[part], references=TRUTH[part])
        other.add_batch(predictions=TRUTH[part], references=TRUTH[part])
    assert one.compute() == whole
    assert other.compute()["accuracy"] == 1.0 != whole["accuracy"]


def test_combined():
    both = evaluate.combine([ClassAccuracy(), GroupAccuracy()])
    both.add_batch(predictions=PREDICTED, references=TRUTH, groups=GROUPS)
    found = both.compute()
    assert found["accuracy"] == metrics.accuracy(PREDICTED, TRUTH)
    assert found["worst group"] == min(metrics.accuracy_by(PREDICTED, TRUTH, PARTS).values())


def test_with_the_evaluator_for_image_classification(tmp_path):
    config = vision_model().config
    config.num_labels = 2
    torch.manual_seed(0)
    CLIPForImageClassification(CLIPConfig(vision_config=config.to_dict(), num_labels=2)).save_pretrained(tmp_path)
    image_processor().save_pretrained(tmp_path)
    reds = range(0, 240, 40)
    data = dataset(reds, label=[0, 1] * 3).cast_column("label", datasets.ClassLabel(names=["LABEL_0", "LABEL_1"]))
    sort = pipeline("image-classification", str(tmp_path))
    predicted = [int(sort(image)[0]["label"] == "LABEL_1") for image in data["image"]]
    found = evaluate.evaluator("image-classification").compute(
        str(tmp_path), data, metric=ClassAccuracy(), label_mapping={"LABEL_0": 0, "LABEL_1": 1}
    )
    assert found["accuracy"] == metrics.accuracy(predicted, [0, 1] * 3)
    assert found["by class"] == metrics.accuracy_by(predicted, [0, 1] * 3, [0, 1] * 3)


def test_the_evaluation_reports_what_the_classes_compute(tmp_path, monkeypatch):
    class Marked(ClassAccuracy):
        def compute(self, **inputs):
            """Change one figure."""
            return {**super().compute(**inputs), "accuracy": 0.125}

    dataset([0, 1, 0], label=["boat", "car", "car"]).save_to_disk(tmp_path / "data")
    text = text_model(tmp_path)
    task = ZeroShot(data=DatasetSettings(dataset=str(tmp_path / "data")), classes=CLASSES)

    def reported():
        found = run([*seers(text, base=int)], [task], text=text, resamples=100)
        return [found.value("zero-shot", name, "base") for name in ("accuracy", "average over classes")]

    plain = reported()
    assert plain == [pytest.approx(2 / 3, abs=1e-6), 0.75]
    monkeypatch.setattr("sith_hf.evaluation.metric_classes.ClassAccuracy", Marked)
    assert reported() == [0.125, plain[1]]


@pytest.mark.slow
def test_evaluate_and_matplotlib_are_imported_where_they_are_needed_and_leave_no_file_and_no_setting(tmp_path):
    tiny_editor(tmp_path / "model").decompose(tiny_concepts()).save_pretrained(tmp_path / "made")
    code = """
import sys
from click.testing import CliRunner
import sith_hf.evaluation
from sith_hf import SithEditor, evaluate as run
from sith_hf.cli import sith_hf as command
for arguments in (["--help"], ["evaluate", "--help"], ["show", sys.argv[1]]):
    CliRunner().invoke(command, arguments, catch_exceptions=False)
assert "evaluate" not in sys.modules
from sith_hf.evaluation.metric_classes import ClassAccuracy
assert "evaluate" in sys.modules
assert ClassAccuracy().compute(predictions=[0, 1], references=[0, 0])["accuracy"] == 0.5

from sith_hf.evaluation.charts import Series, line_chart
assert "matplotlib" not in sys.modules
import matplotlib
def draw(path):
    line_chart([Series("a", [1, 2], [1, 2])], path, title="t", x_label="x", y_label="y")
matplotlib.rcParams["lines.linewidth"] = 9.0
before = matplotlib.rcParams.copy()
draw(sys.argv[2] + "/a.png")
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
matplotlib.rcdefaults()
draw(sys.argv[2] + "/b.png")
"""
    for name in ("cache", "temporary"):
        (tmp_path / name).mkdir()
    places = {"HF_METRICS_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "temporary")}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "made"), str(tmp_path)],
        check=True,
        env={**os.environ, **places},
    )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not list((tmp_path / "cache").iterdir())
    assert not list((tmp_path / "temporary").iterdir())
