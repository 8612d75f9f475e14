"""``compare``, ``compose`` and ``diff`` on the command line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import CLIPModel, CLIPVisionModel

from sith_hf.edits import EditSpec
from tests.support import siglip
from tests.support.cli import HOSTILE, refused, sith, succeeded
from tests.support.raw import random_spec, tree
from tests.support.tiny import save_clip


def tuned(source, folder, change):
    """A copy of a checkpoint whose model was changed by ``change``."""
    shutil.copytree(source, folder)
    model = CLIPModel.from_pretrained(source)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    return folder


def outputs(model):
    layer = model.vision_model.encoder.layers[1].self_attn
    layer.out_proj.weight[:, 8:16] += torch.randn(32, 8, generator=torch.Generator().manual_seed(0)) / 20


class TestCompare:
    def test_report_and_json(self, work, tmp_path):
        other = tuned(work / "clip", tmp_path / "tuned", outputs)
        command = ("compare", work / "clip", other, "--concepts", work / "concepts.txt", "-o", tmp_path / "out")
        data = succeeded(sith(*command, "--json")).data
        assert data["changed_heads"] == 1
        assert data["tensors"]["changed"] == ["encoder.layers.1.self_attn.out_proj.weight"]
        assert data["reweighting"] + data["rotation"] + data["new"] == pytest.approx(1)
        (head,) = (item for item in data["heads"] if item["change_norm"])
        assert (head["layer"], head["head"]) == (1, 1)
        assert len(data["words"]) == 3
        out = tmp_path / "out"
        assert json.loads((out / "adaptation.json").read_text("ascii")) == data
        assert (out / "report.md").read_text("utf-8").startswith("# What fine-tuning changed: tuned against clip")
        with Image.open(out / "heat_map.png") as picture:
            assert picture.format == "PNG"
        before = tree(out)
        ran = succeeded(sith(*command))
        assert "already done" in ran.err
        assert tree(out) == before
        assert " changed most: by " in ran.out.splitlines()[0]
        assert "The most changed heads" not in ran.out
        assert "The most changed heads" in succeeded(sith(*command, "--details")).out
        refused(sith(*command, "--directions", "1"))
        assert tree(out) == before

    def test_hostile_words(self, work, tmp_path):
        other = tuned(work / "clip", tmp_path / "tuned", outputs)
        (tmp_path / "words.txt").write_text("\n".join([*HOSTILE, "a", "b"]) + "\n", encoding="utf-8")
        succeeded(sith("compare", work / "clip", other, "--concepts", tmp_path / "words.txt"))

    def test_an_adapter_of_peft(self, work, tmp_path):
        adapted = get_peft_model(
            CLIPModel.from_pretrained(work / "clip"), LoraConfig(r=2, target_modules=r"vision_model.*2.*\.out_proj")
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) / 10)
        adapted.save_pretrained(tmp_path / "lora")
        adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
        shutil.copy(work / "clip" / "tokenizer.json", tmp_path / "merged")
        found = []
        for name in ("lora", "merged"):
            ran = succeeded(
                sith("compare", work / "clip", tmp_path / name, "--concepts", work / "concepts.txt", "--json")
            )
            found.append({key: value for key, value in ran.data.items() if key != "tuned"})
        assert found[0] == found[1]
        assert {head["layer"] for head in found[0]["heads"] if head["change_norm"]} == {2}

    def test_the_text_tower(self, work, tmp_path):
        def change(model):
            model.text_model.encoder.layers[0].self_attn.v_proj.weight[:8] += 0.1

        other = tuned(work / "clip", tmp_path / "tuned", change)
        words = ("--concepts", work / "concepts.txt")
        ran = succeeded(sith("compare", work / "clip", other, *words, "--tower", "text", "--json"))
        assert (ran.data["tower"], ran.data["changed_heads"]) == ("text", 1)
        assert "vision tower: every change is zero" in refused(sith("compare", work / "clip", other, *words))

    def test_other_weights_than_those_of_heads(self, work, tmp_path):
        def change(model):
            model.vision_model.encoder.layers[1].mlp.fc1.weight.mul_(1.1)
            model.vision_model.encoder.layers[1].self_attn.q_proj.weight.mul_(1.1)

        other = tuned(work / "clip", tmp_path / "tuned", change)
        ran = succeeded(sith("compare", work / "clip", other, "--concepts", work / "concepts.txt"))
        assert "2 of 56 tensors of the tower differ, but no compared head changed" in ran.out

    def test_a_tower_without_words(self, work, tmp_path):
        model = CLIPVisionModel.from_pretrained(work / "tower")
        with torch.no_grad():
            model.encoder.layers[0].self_attn.v_proj.weight.mul_(2)
        model.save_pretrained(tmp_path / "tuned")
        ran = succeeded(sith("compare", work / "tower", tmp_path / "tuned", "--json"))
        assert "numbers only, no words" in ran.err
        assert ran.data["words"] is None
        assert ran.data["reweighting"] == pytest.approx(1)

    def test_identical_weights(self, work, tmp_path):
        shutil.copytree(work / "clip", tmp_path / "copy")
        said = refused(sith("compare", work / "clip", tmp_path / "copy", "-o", tmp_path / "out", "--json"))
        assert "has the weights of" in said
        assert "every change is zero" in said
        assert not (tmp_path / "out").exists()

    def test_other_architectures(self, work, tmp_path):
        assert "family" in refused(sith("compare", work / "clip", siglip.save(tmp_path / "siglip")))
        smaller = save_clip(tmp_path / "small", vision={"num_hidden_layers": 2})
        assert "number of layers 3" in refused(sith("compare", work / "clip", smaller, "-o", tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_no_checkpoint(self, work, tmp_path):
        (tmp_path / "empty").mkdir()
        refused(sith("compare", work / "clip", tmp_path / "empty"))
        refused(sith("compare", work / "clip", tmp_path / "missing"))
        refused(sith("compare", work / "clip", work / "spec"))


class TestCompose:
    def test_gains_multiply(self, work, tmp_path):
        for name, terms in (("a", [(0, 1, 2, 0.5), (1, 0, 0, 2.0)]), ("b", [(0, 1, 2, 0.5)])):
            random_spec(work / "clip", terms, seed=1).save_pretrained(tmp_path / name)
        # Directions of one vector are the same in both.
        both = EditSpec.from_pretrained(tmp_path / "a")
        one = type(both).from_terms(**{**vars(both), "gain": torch.tensor([0.5, 1.0]).double()})
        one.save_pretrained(tmp_path / "b")
        ran = succeeded(sith("compose", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "c", "--json"))
        place = {"tower": "vision", "layer": 0, "head": 1, "vector": 2}
        assert ran.data["shared"] == [{**place, "gains": [0.5, 0.5], "gain": 0.25}]
        assert EditSpec.from_pretrained(tmp_path / "c") == both.compose(one)
        assert [row["gain"] for row in ran.data["vectors"]] == [0.25, 2.0]

    def test_an_edit_and_its_revert_cancel(self, work, tmp_path):
        spec = EditSpec.from_pretrained(work / "spec")
        spec.inverse().save_pretrained(tmp_path / "revert")
        said = refused(sith("compose", work / "spec", tmp_path / "revert", "-o", tmp_path / "c"))
        assert "the edits cancel" in said
        assert not (tmp_path / "c").exists()

    def test_what_does_not_combine(self, work, tmp_path):
        random_spec(work / "other", [(0, 0, 0, 0.0)]).save_pretrained(tmp_path / "other")
        refused(sith("compose", work / "spec", tmp_path / "other", "-o", tmp_path / "c"))
        assert "name two specs" in refused(sith("compose", work / "spec", "-o", tmp_path / "c"))
        refused(sith("compose", work / "spec", work / "d", "-o", tmp_path / "c"))
        assert not (tmp_path / "c").exists()

    def test_another_spec_is_not_replaced(self, work, tmp_path):
        spec = EditSpec.from_pretrained(work / "spec")
        (spec * 0.5).save_pretrained(tmp_path / "half")
        before = tree(tmp_path / "half")
        refused(sith("compose", work / "spec", work / "edited", "-o", tmp_path / "half"))
        assert tree(tmp_path / "half") == before
        succeeded(sith("compose", work / "spec", work / "edited", "-o", tmp_path / "half", "--overwrite"))
        assert EditSpec.from_pretrained(tmp_path / "half") == spec.compose(spec)


class TestDiff:
    def test_specs(self, work, tmp_path):
        spec = EditSpec.from_pretrained(work / "spec")
        (spec * 0.5).save_pretrained(tmp_path / "half")
        data = succeeded(sith("diff", work / "spec", tmp_path / "half", "--json")).data
        assert data["kind"] == "edit spec"
        assert len(data["differences"]) == len(spec)
        assert data["norm"] == pytest.approx(data["first_norm"] / 2)
        assert "the same edit" in succeeded(sith("diff", work / "spec", work / "edited" / "sith")).out

    def test_decompositions(self, work):
        ran = succeeded(sith("diff", work / "d", work / "d"))
        assert "0 turned by more than 10 degrees, 0 with other words" in ran.out

    def test_checkpoints(self, work):
        ran = succeeded(sith("diff", work / "clip", work / "edited"))
        assert "the edit that B records explains every difference" in ran.out
        ran = succeeded(sith("diff", work / "clip", work / "other", "--top", "3"))
        assert "sith-hf compare A B" in ran.out
        assert "the same weights" in succeeded(sith("diff", work / "clip", work / "clip")).out

    def test_two_kinds(self, work, tmp_path):
        said = refused(sith("diff", work / "clip", work / "spec"))
        assert "is a checkpoint" in said
        assert "is an edit spec" in said
        refused(sith("diff", work / "d", work / "clip"))
        refused(sith("diff", work / "d", tmp_path))
        refused(sith("diff", tmp_path / "missing", work / "d"))
