"""``sith-hf evaluate``: two checkpoints on the images of a folder, and one clear message for each fault."""

from __future__ import annotations

import json
import re

import pytest
import torch

from sith_hf.editor import SithEditor
from tests.support.cli import refused, sith, succeeded
from tests.support.evaluating import dataset
from tests.support.made import tiny_concepts
from tests.support.tiny import image_processor, save_clip, vision_model


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    save_clip(folder / "base")
    image_processor().save_pretrained(folder / "base")
    editor = SithEditor.from_pretrained(folder / "base")
    editor.decompose(tiny_concepts(), layers=[-1])
    spec = editor.edit().vectors(-1.0, layers=[-1]).spec
    spec.save_pretrained(folder / "spec")
    editor.save_pretrained(folder / "edited", spec)
    vision_model().save_pretrained(folder / "tower")
    image_processor().save_pretrained(folder / "tower")
    reds = list(range(0, 240, 10))
    labels = ["boat", "car"] * 12
    rows = dataset(reds, kind=labels, place=["sea", "sea", "road"] * 8, words=[f"number {red}" for red in reds])
    rows.save_to_disk(folder / "images")
    return folder


def ran(*arguments):
    """Return the stdout of a run that succeeds."""
    return succeeded(sith("evaluate", *arguments, "--details")).out


NAMED = ("--columns", "label=kind,group=place", "--classes", "boat,car")


class TestRuns:
    def test_json(self, work, tmp_path):
        out = ran(
            work / "base", work / "edited", "--data", work / "images", *NAMED, "--json", "-o", tmp_path / "r.json"
        )
        data = json.loads(out)
        assert data == json.loads((tmp_path / "r.json").read_text())
        assert data["contenders"] == ["base", "edited"]
        assert {"accuracy", "worst group"} <= {m["metric"] for m in data["tasks"][0]["measures"]}
        assert str(work) not in out

    def test_a_spec_gives_what_the_edited_checkpoint_gives(self, work):
        options = ("--data", work / "images", *NAMED, "--json", "--batch-size", "5")
        assert ran(work / "base", work / "edited", *options) == ran(work / "base", "--spec", work / "spec", *options)

    def test_a_table(self, work):
        out = ran(work / "base", work / "edited", "--data", work / "images", *NAMED, "--limit", "10")
        assert "10 images" in out
        assert "worst group" in out

    def test_retrieval_and_collateral(self, work):
        models = (work / "base", work / "edited", "--data", work / "images", "--json")
        task = json.loads(ran(*models, "--task", "retrieval", "--columns", "caption=words"))["tasks"][0]
        assert {m["part"] for m in task["measures"]} == {"image to texts", "text to images"}
        task = json.loads(ran(*models, "--task", "collateral", "--streaming"))["tasks"][0]
        assert task["measures"][0]["metric"] == "drift, mean"

    def test_a_plan(self, work, tmp_path):
        plan = tmp_path / "plan.yaml"
        where = f"data: {{dataset: {work / 'images'}, columns: {{label: kind, group: [kind, place]}}}}"
        tasks = f"- kind: zero-shot\n  {where}\n  classes: [boat, car]\n- kind: collateral\n  {where}\n"
        plan.write_text(f"precision: no\ntasks:\n{tasks}")
        data = json.loads(ran(work / "base", work / "edited", "--plan", plan, "--json", "--seed", "4"))
        assert [task["name"] for task in data["tasks"]] == ["zero-shot", "collateral"]
        assert data["settings"]["seed"] == 4
        assert any(m["part"] == "group boat/sea" for m in data["tasks"][0]["measures"])

    def test_help_names_the_arguments(self):
        assert "BASE [EDITED]" in ran("--help")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (("edited",), "--data"),
            ((), "EDITED"),
            (("edited", "--spec", "spec"), "EDITED"),
            (("base", "--data", "images", *NAMED), "same weights"),
            (("edited", "--data", "images"), "no column label; it has image, kind, place, words"),
            (("edited", "--data", "images", "--columns", "label=kind"), "classes"),
            (("edited", "--data", "images", *NAMED[:2], "--classes", "boat,plane"), "label|kind"),
            (("edited", "--data", "images", *NAMED[:2], "--classes", "boat,boat"), "more than once"),
            (("edited", "--data", "images", *NAMED, "--template", "a photo"), "exactly one"),
            (("edited", "--data", "images", "--columns", "lable=kind"), "did you mean label"),
            pytest.param(
                ("edited", "--data", "images", *NAMED, "--precision", "fp16"),
                "fp16",
                marks=pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator has fp16"),
            ),
            (("edited", "--data", "images", *NAMED, "--limit", "0"), "limit"),
            (("edited", "--data", "images", *NAMED, "--config", "x", "--split", "y", "--task", "retrieval"), "classes"),
            (("edited", "--data", "nobody/nothing", *NAMED), "nobody/nothing"),
            (("edited", "--data", "images", "--task", "retrieval"), "no column caption"),
            (("edited", "--plan", "missing.yaml"), "missing.yaml"),
            (("edited", "--plan", "images/state.json"), "unknown key"),
            (("edited", "--plan", "missing.yaml", "--data", "images"), "remove the options for them"),
            (("tower", "--data", "images", *NAMED), "differ in architecture"),
        ],
    )
    def test_one_clear_line(self, work, monkeypatch, arguments, complaint):
        monkeypatch.chdir(work)
        assert re.search(complaint, refused(sith("evaluate", "base", *arguments)))

    def test_columns_without_values(self, work):
        assert "--columns" in refused(sith("evaluate", work / "base", work / "edited", "--columns", "label"))
