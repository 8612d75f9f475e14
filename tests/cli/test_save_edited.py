"""``sith-hf save-edited``, ``verify`` and ``revert``: a copy of a checkpoint is edited, verified and reverted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers

from sith_hf.edits import EditSpec
from tests.support.cli import harmless, refused, sith, succeeded
from tests.support.raw import SINGLE, out_proj, raw_tensors, read_raw, tree, write_raw

SAVE = ("save-edited", "{work}/clip", "-o", "{out}", "--spec", "{work}/spec")


class TestSaveEdited:
    def test_only_the_edited_tensors_differ(self, scene, work):
        data = scene.save.data
        touched = {key for layer in EditSpec.from_pretrained(work / "spec").layers for key in out_proj(layer)}
        assert set(data["changed"]) == touched
        assert all(change > 0 for change in data["changed"].values())
        assert data["left_out"] == []
        assert Path(data["folder"]) == work / "edited"
        before, after = raw_tensors(work / "clip"), raw_tensors(work / "edited")
        assert {key for key in before if before[key] != after[key]} == touched
        _, report = transformers.CLIPModel.from_pretrained(work / "edited", output_loading_info=True)
        assert not report["missing_keys"]

    def test_for_people(self, work, tmp_path):
        source = shutil.copytree(work / "clip", tmp_path / "source")
        (source / "pytorch_model\x1b[31m.bin").write_bytes(b"")
        ran = succeeded(sith("save-edited", source, "--spec", work / "spec", "--details", "-o", tmp_path / "edited"))
        assert ran.out.splitlines()[-1] == str(tmp_path / "edited")
        assert "left out pytorch_model\\x1b[31m.bin: it holds weights without the edit" in ran.out

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (("save-edited",), "BASE"),
            (SAVE[:4], "--spec"),
            ((*SAVE[:-1], "{work}/d"), "edit_spec.safetensors"),
            (("save-edited", "{work}/clip", "-o", "{work}/clip", "--overwrite", *SAVE[4:]), "overlap"),
            (("save-edited", "{work}/clip", "-o", "{work}/clip/sub", *SAVE[4:]), "overlap"),
            (("save-edited", "{work}/clip", "-o", "{work}", "--overwrite", *SAVE[4:]), "overlap"),
            (("save-edited", "{work}/clip", "-o", "{work}/concepts.txt", *SAVE[4:]), "concepts.txt"),
            (("save-edited", "{work}/clip", "-o", "{work}/d", *SAVE[4:]), "--overwrite"),
            (("save-edited", "{work}/other", *SAVE[2:]), "other"),
            (("save-edited", "{work}/none", *SAVE[2:]), "none"),
            (("save-edited", "{work}/clip", "-o", "{work}/" + "x" * 5000, *SAVE[4:]), "x" * 100),
        ],
    )
    def test_refused(self, refuses, words, named):
        refuses(words, named)


class TestVerify:
    def test_a_sound_one(self, work):
        ran = succeeded(sith("verify", work / "edited", "--json"))
        assert ran.data["ok"] is True
        assert "verifying" in ran.err
        human = succeeded(sith("verify", work / "edited", "--base", work / "clip", "--spec", work / "spec"))
        assert human.out.startswith("verified:")

    @pytest.mark.parametrize("value", [5.0, float("nan")])
    def test_problems_are_listed(self, scene, work, tmp_path, value):
        bad = shutil.copytree(work / "edited", tmp_path / "bad")
        (bad / "evil\x1b[31m\u202e.txt").write_text("")
        key = next(iter(scene.save.data["changed"]))
        tensors, metadata = read_raw(bad / SINGLE)
        content = torch.tensor([value]).numpy().tobytes() + tensors[key].content[4:]
        write_raw(bad / SINGLE, {**tensors, key: tensors[key]._replace(content=content)}, metadata)
        ran = sith("verify", bad, "--base", work / "clip", "--json")
        assert ran.code == 1, ran.err
        assert ran.data["ok"] is False
        assert len(ran.data["problems"]) == 2
        human = sith("verify", bad, "--base", work / "clip")
        assert human.code == 1
        assert "NOT verified" in human.out
        assert len(human.out.splitlines()) == 3
        harmless(human)

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            ((), "EDITED"),
            (("{work}/clip",), "edit_spec.safetensors"),
            (("{work}/edited", "--base", "{work}/other"), "other"),
            (("{work}/edited", "--base", "{work}/none"), "none"),
            (("{work}/edited", "--spec", "{work}/none"), "none"),
            (("\x1b]0;owned\x07/a/b",), "owned"),
        ],
    )
    def test_refused(self, refuses, words, named):
        refuses(("verify", *words), named)


class TestRevert:
    def test_the_base_comes_back(self, scene, work, tmp_path):
        succeeded(sith("revert", work / "edited", "-o", tmp_path / "back", "--json"))
        before, after = raw_tensors(work / "clip"), raw_tensors(tmp_path / "back")
        assert {key for key in before if before[key] != after[key]} <= set(scene.save.data["changed"])
        assert tree(tmp_path / "back", without=["model"]) == tree(work / "clip", without=["model"])
        assert "already done" in succeeded(sith("revert", work / "edited", "-o", tmp_path / "back")).err
        (tmp_path / "back" / "config.json").write_text("{}")
        assert "--overwrite" in refused(sith("revert", work / "edited", "-o", tmp_path / "back"))
        again = succeeded(sith("revert", work / "edited", "-o", tmp_path / "back", "--overwrite"))
        assert again.out.splitlines()[-1] == str(tmp_path / "back")

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (("{work}/clip", "-o", "{out}"), "edit_spec.safetensors"),
            (("{work}/none", "-o", "{out}"), "none"),
            (("{work}/edited", "-o", "{work}/edited", "--overwrite"), "overlap"),
            (("{work}/edited",), "--output"),
        ],
    )
    def test_refused(self, refuses, words, named):
        refuses(("revert", *words), named)


def test_damaged_weights_are_refused_by_every_command_that_reads_them(work, tmp_path):
    for name in ("clip", "edited"):
        shutil.copytree(work / name, tmp_path / name)
        raw = (tmp_path / name / SINGLE).read_bytes()
        (tmp_path / name / SINGLE).write_bytes(raw[: len(raw) // 2])
    out = ("-o", tmp_path / "out")
    refused(sith("decompose", tmp_path / "clip", "--concepts", work / "concepts.txt", *out))
    refused(sith("save-edited", tmp_path / "clip", "--spec", work / "spec", *out))
    refused(sith("verify", tmp_path / "edited"))
    refused(sith("verify", work / "edited", "--base", tmp_path / "clip"))
    refused(sith("revert", tmp_path / "edited", *out))
    (tmp_path / "clip" / SINGLE).unlink()
    (tmp_path / "clip" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "safetensors" in refused(sith("save-edited", tmp_path / "clip", "--spec", work / "spec", *out))
    assert not (tmp_path / "out").exists()
