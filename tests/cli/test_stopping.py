"""Stopping a command says that the same command resumes from where it stopped, where that is true, and only there."""

from __future__ import annotations

import json
from importlib import import_module

import pytest
from datasets import Dataset
from PIL import Image

from sith_hf.files.resumable import _PartStore
from sith_hf.judges.answers import AnswerCache, Question
from sith_hf.judges.language_model import LanguageModelJudge
from tests.support.cli import harmless, sith, succeeded

pytestmark = pytest.mark.slow

RESUMES, NOTHING = "Stopped. The same command resumes from where it stopped: ", "Stopped. No incomplete file was left"
RECIPE = {
    "title": "t",
    "dictionary": {"texts": ["sea", "road", "boat", "car", "red", "blue"]},
    "decompose": {"layers": [-2, -1]},
    "edits": [{"rule": "vectors", "gain": 0.0, "layers": [-1], "vectors": [0]}],
    "large_edit": True,
}
COMMANDS = {
    "decompose": ("decompose", "{work}/clip", "--dictionary", "{work}/d", "--layers", "-2,-1"),
    "image-mean": ("image-mean", "{model}", "--data", "{data}", "--batch-size", "8"),
    "ground": ("ground", "{model}", "--decomposition", "{tmp}/d", "--images", "{data}", "--batch-size", "8"),
    "evaluate": ("evaluate", "{model}", "--spec", "{tmp}/spec", "--data", "{data}", "--batch-size", "8", "--task",
                 "collateral"),
    "run": ("run", "{tmp}/recipe.yaml"),
}  # fmt: skip


@pytest.fixture
def fill(work, checkpoints, tmp_path):
    """Fill the paths of this test into a command."""
    model, data = checkpoints.base(), tmp_path / "images.parquet"
    # As many as sith-hf ground needs.
    pictures = [Image.new("RGB", (9, 9), (8 * number, 0, 99)) for number in range(32)]
    Dataset.from_dict({"image": pictures}).to_parquet(str(data))
    (tmp_path / "recipe.yaml").write_text(json.dumps({**RECIPE, "base": {"model": str(model)}}))
    places = {"work": work, "tmp": tmp_path, "model": model, "data": data}
    return lambda words: [part.format(**places) for part in words]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_resumes(fill, tmp_path, monkeypatch, name):
    for module in ("embed", "mean"):
        monkeypatch.setattr(import_module(f"sith_hf.images.{module}"), "BATCHES", 1)
    monkeypatch.setattr(import_module("sith_hf.grounding.strongest"), "BATCHES", 1)
    command = fill(COMMANDS[name])
    if name in ("ground", "evaluate"):
        explain = ("decompose", command[1], "--concepts", fill(["{work}/concepts.txt"])[0], "--layers", "-1")
        succeeded(sith(*explain, "-o", tmp_path / "d"))
        change = ("--layers", "-1", "--vectors", "0", "--gain", "0", "--yes")
        succeeded(sith("edit", command[1], "--decomposition", tmp_path / "d", *change, "-o", tmp_path / "spec"))
    out, real, kept = tmp_path / "out", _PartStore.put, []

    def put(self, part_name, part):
        if len(kept) == stop_after:
            raise KeyboardInterrupt
        kept.append(part_name)
        real(self, part_name, part)

    monkeypatch.setattr(_PartStore, "put", put)
    stop_after = 0
    stopped = sith(*command, "-o", out)  # the control: nothing is finished
    assert (stopped.code, stopped.out) == (130, ""), stopped.err
    assert stopped.err.splitlines()[-1].startswith(NOTHING)
    stop_after = 1
    stopped = sith(*command, "-o", out)
    harmless(stopped)
    assert (stopped.code, stopped.out) == (130, ""), stopped.err
    assert stopped.err.splitlines()[-1].startswith(f"{RESUMES}{tmp_path / 'out.work'}")
    assert not out.exists()
    stop_after = -1
    succeeded(sith(*command, "-o", out))
    assert len(kept) > 1
    assert kept.count(kept[0]) == 1, "the finished part was made again"
    assert out.exists()
    assert not (tmp_path / "out.work").exists()


@pytest.mark.parametrize("answered", [True, False])
def test_a_language_model_is_asked_on(work, tmp_path, monkeypatch, answered):
    def score(self, *_, **__):
        if answered:
            AnswerCache(tmp_path / "out" / "answers").put(Question("m", {}, "sea?"), "5")
        raise KeyboardInterrupt

    monkeypatch.setattr(LanguageModelJudge, "score", score)
    named = ("--by", "language-model", "--topic", "water", "--llm-model", "m", "--base-url", "http://localhost:9/v1")
    stopped = sith("judge", work / "d", *named, "-o", tmp_path / "out")
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].startswith(RESUMES if answered else NOTHING)
