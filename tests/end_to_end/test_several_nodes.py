"""Two nodes with a launcher each share one command: the bytes of one process, written by the main process alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import chdir

import pytest
import torch

from sith_hf.editor import SithEditor
from sith_hf.images import embed
from tests.core.test_distributed import ROOT, environment, free_port
from tests.support import evaluating, nodes, tiny
from tests.support.cli import sith, succeeded
from tests.support.forking import ended
from tests.support.made import WORDS, tiny_concepts
from tests.support.raw import tree

pytestmark = pytest.mark.slow

RECIPE = """
title: t
base: {model: clip}
dictionary: {texts: [sea, road, boat, car, red, blue]}
decompose: {layers: [-1]}
edits: [{rule: vectors, gain: 0.0, layers: [-1], vectors: [0, 1]}]
large_edit: true
evaluate:
  tasks:
    - kind: zero-shot
      classes: [boat, car]
      data: {dataset: images, columns: {label: kind, group: place}}
  baselines: {random: 1}
  sweep: {strengths: [0.5]}
  resamples: 100
  batch_size: 2
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a model, an edit, images, some of them broken, and a recipe."""
    folder = tmp_path_factory.mktemp("nodes")
    tiny.save_clip(folder / "clip")
    tiny.image_processor().save_pretrained(folder / "clip")
    editor = SithEditor.from_pretrained(folder / "clip")
    editor.decompose(tiny_concepts(), layers=[-1])
    editor.edit().vectors(-1.0, layers=[-1]).spec.save_pretrained(folder / "spec")
    reds = [*range(0, 100, 10), None, b"no picture", *range(100, 230, 10)]
    kinds = (["boat", "car"] * 13)[: len(reds)]
    places = (["sea", "sea", "road"] * 9)[: len(reds)]
    evaluating.dataset(reds, kind=kinds, place=places).save_to_disk(folder / "images")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "concepts.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def alone(home):
    """The outputs of one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (home / "alone").mkdir()
    try:
        with chdir(home / "alone"):
            return {name: succeeded(sith(*arguments)).data for name, arguments in nodes.commands(home).items()}
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def launched(home):
    """The reports of both processes, and what their launchers printed. Each launcher has its own current folder."""
    for rank in range(2):
        (home / f"node-{rank}").mkdir()
    command = [sys.executable, "-m", "tests.support.nodes", str(home), str(free_port())]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)
    said = [(one.out, one.err) for one in ended(json.loads((home / "codes.json").read_text()), home)]
    assert (home / nodes.REPORT).is_file(), said[0][1] + said[1][1]
    return json.loads((home / nodes.REPORT).read_text()), said


def test_two_nodes_give_the_bytes_of_one_process(home, alone, launched):
    reports, _ = launched
    one, two = home / "alone", home / "node-0"
    assert [report["processes"] for report in reports] == [2, 2]
    for name in nodes.commands(home):
        assert [report[name] for report in reports] == [0, 0]
        # Each has made some of the batches of images.
        assert all(report["made"][name] for report in reports) or name == "decomposition"
    for name in ("decomposition", "run"):
        assert tree(two / name) == tree(one / name)
    for name in ("table.json", "stream.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
        assert alone[name]["tasks"][0]["skipped"]
    # The control: an evaluation that read a row more, or in another order, would differ.
    assert alone["run"]["evaluation"]["tasks"][0]["images"] == alone["table.json"]["tasks"][0]["images"] == 23


def test_only_the_main_process_writes_and_prints(home, launched):
    _, ((out, loud), (other_out, quiet)) = launched
    assert not list((home / "node-1").iterdir())
    assert {path.name for path in (home / "node-0").iterdir()} == {*nodes.commands(home), "killed.work"}
    assert out.count('"folder": "run"') == 2
    assert out.count('"processes": 2') == 1
    assert loud.count("already has the results") == 1
    assert other_out == ""
    assert "the processes of this run" not in quiet
    assert "embedding" not in quiet


def test_a_command_that_shares_no_work_runs_once(launched):
    reports, ((out, _), _) = launched
    assert [report["alone"] for report in reports] == [0, 0]
    assert out.count("sharpen-task") == 1


def test_nodes_with_different_inputs_are_refused(home, launched):
    """They would end in other bits, or wait for each other forever."""
    reports, ((_, loud), _) = launched
    assert [report["other threads"] for report in reports] == [2, 2]
    assert loud.count("the processes of this run have different inputs: threads (OMP_NUM_THREADS) of rank 1") == 1
    assert not (home / "node-0" / "threads.json").exists()


def test_a_run_that_a_dead_node_ended_is_resumed_by_one_process(home, alone, launched, monkeypatch):
    _, ((_, loud), _) = launched
    assert json.loads((home / "killed.json").read_text()) == 2
    assert "another of the 2 processes" in loud
    assert not (home / "node-0" / "killed").exists()
    kept = sorted((home / "node-0" / "killed.work").rglob("*.part"))
    assert any(path.parent.name == "evaluation-0" for path in kept)
    made, real = [], embed.embed_batch
    monkeypatch.setattr(embed, "BATCHES", nodes.BATCHES)
    monkeypatch.setattr(embed, "embed_batch", lambda *arguments: made.append(1) or real(*arguments))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(home / "node-0")
    command = nodes.commands(home)["run"]
    try:
        succeeded(sith(*command[:-1], "killed"))
        resumed = len(made)
        succeeded(sith(*command[:-1], "anew"))
    finally:
        torch.set_num_threads(threads)
    assert 0 < resumed < len(made) - resumed
    assert tree(home / "node-0" / "killed") == tree(home / "node-0" / "anew") == tree(home / "alone" / "run")
    assert os.listdir(home / "node-1") == []
