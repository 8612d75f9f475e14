"""The command line: from a checkpoint to an edited one and back, and one clear line for whatever cannot be used."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers

from sith_hf.checkpoint import write as checkpoint
from sith_hf.cli import COMMANDS, main
from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.edits.spec import EditSpec
from tests.support import tiny
from tests.support.raw import SINGLE, out_proj, raw_tensors, read_raw, tree, write_raw

# Terminal codes, text that turns direction, markup for Markdown, HTML and rich.
HOSTILE = ("\x1b[31mred\x1b[0m", "left\u202eright", "<b>|bold|</b>", "[link](x)[/red]", "bell\x07", "line\u2028break")
WORDS = ("sea", "ocean", "beach", "forest", "road", "bird", "boat", "red", "blue", "night", *HOSTILE)


class Ran(NamedTuple):
    """What a run of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def data(self):
        """stdout as JSON: it holds nothing else."""
        return json.loads(self.out)


def sith(*arguments: object) -> Ran:
    """Run ``sith-hf`` in this process, as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["sith-hf", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            main()
    finally:
        sys.argv = before
    return Ran(stopped.value.code or 0, out.getvalue(), err.getvalue())


def refused(ran: Ran) -> str:
    """Check that a run ended with one clear message; returns it."""
    lines = [line for line in ran.err.replace("\r", "\n").split("\n") if line.strip()]
    assert ran.code == 2, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert lines[-1].startswith("Error: "), ran.err
    assert sum(line.startswith("Error: ") for line in lines) == 1
    assert len(lines[-1]) > len("Error: ") + 8
    harmless(ran)
    return lines[-1]


def harmless(ran: Ran) -> None:
    """No character that a terminal obeys, but for those of a progress bar on stderr."""
    for text in (ran.out, ran.err.replace("\r", "").replace("\x1b[A", "")):
        assert not set(text) & {"\x1b", "\x07", "\u202e", "\u2028", "\x08", "\x9b"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Every artifact of the main job, each made by the command line."""
    folder = tmp_path_factory.mktemp("work")
    tiny.save_clip(folder / "clip")
    tiny.vision_model().save_pretrained(folder / "tower")
    tiny.projected_vision_model().save_pretrained(folder / "projected")
    (folder / "concepts.txt").write_text("\n".join([*WORDS, "", "Sea"]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def decomposed(work):
    return sith("decompose", work / "clip", "--concepts", work / "concepts.txt", "-o", work / "d", "--json")


@pytest.fixture(scope="module")
def drafted(work, decomposed):
    named = ("--suppress", "sea", "--amplify", "bird=2.5", "--invert", "night", "--threshold", "0.2")
    return sith("edit", work / "clip", "--decomposition", work / "d", *named, "-o", work / "spec", "--json")


@pytest.fixture(scope="module")
def saved(work, drafted):
    return sith("save-edited", work / "clip", "--spec", work / "spec", "-o", work / "edited", "--json")


class TestMainJob:
    def test_decompose(self, work, decomposed):
        assert decomposed.code == 0, decomposed.err
        data = decomposed.data
        assert data["layers"] == [0, 1, 2]
        assert (data["heads"], data["vectors"], data["poles"]) == (4, 8, ["+", "-"])
        assert (data["concepts"], data["blank"], data["duplicates"]) == (len(WORDS), 1, 1)
        assert Path(data["decomposition"]) == work / "d" / "decomposition.safetensors"
        assert Decomposition.from_pretrained(work / "d").num_heads == 4
        assert len(ConceptDictionary.from_pretrained(work / "d")) == len(WORDS)
        assert "decomposing" in decomposed.err
        assert sorted(path.name for path in (work / "d").iterdir()) == [
            "decomposition.safetensors",
            "dictionary.safetensors",
        ]

    def test_the_memory_of_a_large_dictionary_is_told_beforehand(self, work, tmp_path, monkeypatch):
        arguments = ["decompose", work / "clip", "--concepts", work / "concepts.txt", "--layers", "-1", "-o"]
        assert "GB beside" not in sith(*arguments, tmp_path / "small").err
        monkeypatch.setattr("sith_hf.cli.decompose.LARGE", 2)
        ran = sith(*arguments, tmp_path / "large")
        assert re.search(r"explaining takes at most \d+\.\d GB beside", ran.err)

    def test_decompose_with_everything(self, work, decomposed, tmp_path):
        options = ("--layers", "-1,0", "--rank", "3", "--poles", "+", "--method", "omp", "--sparsity", "2")
        extra = ("--no-fold", "--centre", "--dictionary", work / "d")
        ran = sith("decompose", work / "clip", *options, *extra, "-o", tmp_path / "d")
        assert ran.code == 0, ran.err
        assert "mean fidelity" in ran.out
        assert str(tmp_path / "d" / "decomposition.safetensors") in ran.out
        made = Decomposition.from_pretrained(tmp_path / "d")
        assert (made.layers, made.rank, made.poles, made.concept.shape[-1]) == ((0, 2), 3, ("+",), 2)
        assert (made.settings["fold"], made.settings["centre"], made.settings["method"]) == (False, True, "omp")
        harmless(ran)

    def test_show(self, work, decomposed):
        ran = sith("show", work / "d", "--json")
        assert ran.code == 0, ran.err
        assert len(ran.data) == 3 * 4 * 3 * 2
        assert set(ran.data[0]) >= {"layer", "head", "vector", "pole", "concepts", "fidelity"}
        assert ran.err == ""
        some = sith("show", work / "d", "--layers", "-1", "--heads", "0,3", "--top", "2", "--json").data
        assert {(row["layer"], row["head"], row["vector"]) for row in some} == {
            (2, h, v) for h in (0, 3) for v in (0, 1)
        }
        human = sith("show", work / "d", "--top", "8")
        assert human.code == 0
        assert "concepts" in human.out
        harmless(human)
        harmless(ran)

    def test_find(self, work, decomposed):
        ran = sith("find", work / "d", "sea", "--limit", "5", "--json")
        assert ran.code == 0, ran.err
        assert 1 <= len(ran.data) <= 5
        assert all("sea" in [text for text, _ in row["concepts"]] or row["strength"] > 0 for row in ran.data)
        strengths = [row["strength"] for row in ran.data]
        assert strengths == sorted(strengths, reverse=True)
        human = sith("find", work / "d", "sea")
        assert (human.code, "strength" in human.out) == (0, True)
        harmless(human)

    def test_find_a_concept_that_only_the_model_knows(self, work, decomposed):
        assert "no explanation" in refused(sith("find", work / "d", "submarine"))
        ran = sith("find", work / "d", "submarine", "--model", work / "clip", "--near", "0.05", "--json")
        assert ran.code == 0, ran.err
        assert isinstance(ran.data, list)
        nothing = sith("find", work / "d", "xyzzy \x1b[31m", "--model", work / "clip", "--near", "1")
        assert nothing.code == 0
        assert nothing.out.startswith("No vector speaks of xyzzy")
        harmless(nothing)

    def test_edit(self, work, drafted):
        assert drafted.code == 0, drafted.err
        assert {row["gain"] for row in drafted.data["vectors"]} >= {0.0}
        spec = EditSpec.from_pretrained(work / "spec")
        assert spec.rows() == drafted.data["vectors"]
        shown = sith("show", work / "spec", "--json")
        assert shown.data == spec.rows()
        human = sith("show", work / "spec")
        assert human.code == 0
        assert str(len(spec)) in human.out
        harmless(human)

    def test_edit_by_name(self, work, decomposed, tmp_path):
        named = ("--layers", "2", "--heads", "1", "--vectors", "0,1", "--gain", "3", "--strength", "0.5")
        ran = sith("edit", work / "clip", "--decomposition", work / "d", *named, "-o", tmp_path / "spec")
        assert ran.code == 0, ran.err
        spec = EditSpec.from_pretrained(tmp_path / "spec")
        assert spec.keys == [(2, 1, 0), (2, 1, 1)]
        assert spec.gain.tolist() == [2.0, 2.0]
        harmless(ran)

    def test_save_edited(self, work, saved):
        assert saved.code == 0, saved.err
        touched = {key for layer in EditSpec.from_pretrained(work / "spec").layers for key in out_proj(layer)}
        assert set(saved.data["changed"]) == touched
        assert all(change > 0 for change in saved.data["changed"].values())
        assert saved.data["left_out"] == []
        assert Path(saved.data["folder"]) == work / "edited"
        before, after = raw_tensors(work / "clip"), raw_tensors(work / "edited")
        assert {key for key in before if before[key] != after[key]} == touched
        _, report = transformers.CLIPModel.from_pretrained(work / "edited", output_loading_info=True)
        assert not report["missing_keys"]

    def test_save_edited_for_people(self, work, saved, tmp_path):
        source = shutil.copytree(work / "clip", tmp_path / "source")
        (source / "pytorch_model\x1b[31m.bin").write_bytes(b"")
        ran = sith("save-edited", source, "--spec", work / "spec", "-o", tmp_path / "edited")
        assert ran.code == 0, ran.err
        assert ran.out.splitlines()[-1] == str(tmp_path / "edited")
        assert "left out pytorch_model" in ran.err
        harmless(ran)

    def test_verify(self, work, saved, tmp_path):
        ran = sith("verify", work / "edited", "--json")
        assert ran.code == 0, ran.err
        assert ran.data["ok"] is True
        assert "verifying" in ran.err
        human = sith("verify", work / "edited", "--base", work / "clip", "--spec", work / "spec")
        assert human.code == 0
        assert human.out.startswith("verified:")

    @pytest.mark.parametrize("value", [5.0, float("nan")])
    def test_verify_with_problems(self, work, saved, tmp_path, value):
        bad = shutil.copytree(work / "edited", tmp_path / "bad")
        (bad / "evil\x1b[31m\u202e.txt").write_text("")
        key = next(iter(saved.data["changed"]))
        tensors, metadata = read_raw(bad / SINGLE)
        content = torch.tensor([value]).numpy().tobytes() + tensors[key].content[4:]
        write_raw(bad / SINGLE, {**tensors, key: tensors[key]._replace(content=content)}, metadata)
        ran = sith("verify", bad, "--json")
        assert ran.code == 1, ran.err
        assert ran.data["ok"] is False
        assert len(ran.data["problems"]) == 2
        human = sith("verify", bad)
        assert human.code == 1
        assert "NOT verified" in human.out
        assert len(human.out.splitlines()) == 3
        harmless(human)

    def test_revert(self, work, saved, tmp_path):
        ran = sith("revert", work / "edited", "-o", tmp_path / "back", "--json")
        assert ran.code == 0, ran.err
        before, after = raw_tensors(work / "clip"), raw_tensors(tmp_path / "back")
        assert {key for key in before if before[key] != after[key]} <= set(saved.data["changed"])
        assert tree(tmp_path / "back", without=["model"]) == tree(work / "clip", without=["model"])
        assert "not empty" in refused(sith("revert", work / "edited", "-o", tmp_path / "back"))
        again = sith("revert", work / "edited", "-o", tmp_path / "back", "--overwrite")
        assert again.code == 0
        assert again.out.splitlines()[-1] == str(tmp_path / "back")


class TestTowers:
    @pytest.mark.parametrize("kind", ["tower", "projected"])
    def test_a_vision_model_with_its_companion(self, work, decomposed, tmp_path, kind):
        options = ("--concepts", work / "concepts.txt", "--layers", "-1", "-o", tmp_path / "d")
        message = refused(sith("decompose", work / kind, *options))
        assert "--text-model" in message
        assert not (tmp_path / "d").exists()
        text = ("--text-model", work / "clip")
        assert sith("decompose", work / kind, *options, *text).code == 0
        named = ("--suppress", "sea", "--threshold", "0.1")
        edit = ("edit", work / kind, "--decomposition", tmp_path / "d", *named, "-o", tmp_path / "spec")
        ran = sith(*edit, *text)
        assert ran.code == 0, ran.err
        assert sith("save-edited", work / kind, "--spec", tmp_path / "spec", "-o", tmp_path / "edited").code == 0
        assert sith("verify", tmp_path / "edited", "--base", work / kind).code == 0
        _, report = transformers.CLIPVisionModel.from_pretrained(tmp_path / "edited", output_loading_info=True)
        assert not report["missing_keys"]

    def test_a_companion_without_text(self, work, tmp_path):
        options = ("--concepts", work / "concepts.txt", "-o", tmp_path / "d")
        for other in ("tower", "projected", "none"):
            refused(sith("decompose", work / "tower", *options, "--text-model", work / other))

    def test_an_encoded_dictionary_needs_no_tokenizer(self, work, decomposed, tmp_path):
        (tmp_path / "clip").mkdir()
        for name in ("config.json", SINGLE):
            shutil.copyfile(work / "clip" / name, tmp_path / "clip" / name)
        ran = sith("decompose", tmp_path / "clip", "--dictionary", work / "d", "-o", tmp_path / "d")
        assert ran.code == 0, ran.err
        options = ("--concepts", work / "concepts.txt", "-o", tmp_path / "other")
        assert "tokenizer" in refused(sith("decompose", tmp_path / "clip", *options))


DECOMPOSE = ("decompose", "{work}/clip", "--concepts", "{work}/concepts.txt", "-o", "{out}")
EDIT = ("edit", "{work}/clip", "--decomposition", "{work}/d", "-o", "{out}")
SAVE = ("save-edited", "{work}/clip", "-o", "{out}", "--spec", "{work}/spec")
LONG = "x" * 5000
BAD = {
    "no such command": ("explode",),
    "no such option": ("show", "{work}/d", "--explode"),
    "hostile option": ("show", "{work}/d", "--\x1b[31mred"),
    "decompose nothing": ("decompose",),
    "decompose without output": DECOMPOSE[:4],
    "decompose no model": ("decompose", "{work}/none", *DECOMPOSE[2:]),
    "decompose a file": ("decompose", "{work}/concepts.txt", *DECOMPOSE[2:]),
    "decompose a folder that is no model": ("decompose", "{work}/d", *DECOMPOSE[2:]),
    "decompose an id of three parts": ("decompose", "no/such/id", *DECOMPOSE[2:]),
    "decompose a long name": ("decompose", LONG, *DECOMPOSE[2:]),
    "decompose a hostile name": ("decompose", "\x1b[31mred\u202e/a/b", *DECOMPOSE[2:]),
    "decompose an empty name": ("decompose", "", *DECOMPOSE[2:]),
    "decompose layer 3": (*DECOMPOSE, "--layers", "3"),
    "decompose layer -4": (*DECOMPOSE, "--layers", "-4"),
    "decompose layer twice": (*DECOMPOSE, "--layers", "2,-1"),
    "decompose layers text": (*DECOMPOSE, "--layers", "last"),
    "decompose layers empty": (*DECOMPOSE, "--layers", ""),
    "decompose layers half": (*DECOMPOSE, "--layers", "1.5"),
    "decompose layers huge": (*DECOMPOSE, "--layers", "9" * 5000),
    "decompose rank 0": (*DECOMPOSE, "--rank", "0"),
    "decompose rank 9": (*DECOMPOSE, "--rank", "9"),
    "decompose rank nan": (*DECOMPOSE, "--rank", "nan"),
    "decompose poles": (*DECOMPOSE, "--poles", "-"),
    "decompose method": (*DECOMPOSE, "--method", "magic"),
    "decompose sparsity 0": (*DECOMPOSE, "--sparsity", "0"),
    "decompose sparsity above M": (*DECOMPOSE, "--sparsity", "17"),
    "decompose coherence nan": (*DECOMPOSE, "--coherence-weight", "nan"),
    "decompose coherence inf": (*DECOMPOSE, "--coherence-weight", "inf"),
    "decompose coherence negative": (*DECOMPOSE, "--coherence-weight", "-1"),
    "decompose template": (*DECOMPOSE, "--template", "no place"),
    "decompose template twice": (*DECOMPOSE, "--template", "{} {}"),
    "decompose image mean": (*DECOMPOSE, "--image-mean", "{work}/none"),
    "decompose image mean of text": (*DECOMPOSE, "--image-mean", "{work}/concepts.txt"),
    "decompose image mean elsewhere": (*DECOMPOSE, "--image-mean", "{work}/clip/model.safetensors"),
    "decompose two sources": (*DECOMPOSE, "--dictionary", "{work}/d"),
    "decompose dataset without column": ("decompose", "{work}/clip", "--dataset", "{work}", "-o", "{out}"),
    "decompose column without dataset": (*DECOMPOSE, "--column", "x"),
    "decompose dictionary with template": (
        *("decompose", "{work}/clip", "-o", "{out}", "--dictionary", "{work}/d", "--template", "a {}"),
    ),
    "decompose no dictionary": ("decompose", "{work}/clip", "-o", "{out}", "--dictionary", "{work}/clip"),
    "decompose no concepts": (*DECOMPOSE[:3], "{work}/none.txt", "-o", "{out}"),
    "decompose concepts of a folder": (*DECOMPOSE[:3], "{work}", "-o", "{out}"),
    "decompose concepts of bytes": (*DECOMPOSE[:3], "{work}/clip/model.safetensors", "-o", "{out}"),
    "decompose onto a file": (*DECOMPOSE[:-1], "{work}/concepts.txt"),
    "decompose below a file": (*DECOMPOSE[:-1], "{work}/concepts.txt/below"),
    "show nothing": ("show",),
    "show no folder": ("show", "{work}/none"),
    "show a model": ("show", "{work}/clip"),
    "show a text": ("show", "{work}/concepts.txt"),
    "show a long name": ("show", LONG),
    "show a dictionary": ("show", "{work}/d/dictionary.safetensors"),
    "show layer 9": ("show", "{work}/d", "--layers", "9"),
    "show head -1": ("show", "{work}/d", "--heads", "-1"),
    "show head 4": ("show", "{work}/d", "--heads", "4"),
    "show vectors 0": ("show", "{work}/d", "--top", "0"),
    "find nothing": ("find", "{work}/d"),
    "find blank": ("find", "{work}/d", " "),
    "find blank with a model": ("find", "{work}/d", " ", "--model", "{work}/clip"),
    "find hostile": ("find", "{work}/d", "\x1b[31mno\u202e"),
    "find near 0": ("find", "{work}/d", "sea", "--near", "0"),
    "find near nan": ("find", "{work}/d", "sea", "--near", "nan"),
    "find near 2": ("find", "{work}/d", "sea", "--near", "2"),
    "find limit 0": ("find", "{work}/d", "sea", "--limit", "0"),
    "find limit -1": ("find", "{work}/d", "sea", "--limit", "-1"),
    "find limit text": ("find", "{work}/d", "sea", "--limit", "all"),
    "find with another model": ("find", "{work}/d", "sub", "--model", "{work}/none"),
    "find in a spec": ("find", "{work}/spec", "sea"),
    "edit nothing": EDIT,
    "edit gain nan": (*EDIT, "--suppress", "sea=nan"),
    "edit gain inf": (*EDIT, "--amplify", "sea=inf"),
    "edit gain too large": (*EDIT, "--amplify", "sea=1e999"),
    "edit gain text": (*EDIT, "--amplify", "sea=much"),
    "edit gain empty": (*EDIT, "--amplify", "sea="),
    "edit hostile gain": (*EDIT, "--amplify", "\x1b[31msea\u202e=\x07much"),
    "edit concept empty": (*EDIT, "--suppress", ""),
    "edit concept blank with gain": (*EDIT, "--suppress", " =0"),
    "edit gain 1": (*EDIT, "--suppress", "sea=1", "--threshold", "0.1"),
    "edit nobody speaks of": (*EDIT, "--suppress", "qqq", "--near", "1"),
    "edit invert blank": (*EDIT, "--invert", " "),
    "edit threshold 0": (*EDIT, "--suppress", "sea", "--threshold", "0"),
    "edit threshold nan": (*EDIT, "--suppress", "sea", "--threshold", "nan"),
    "edit threshold 2": (*EDIT, "--suppress", "sea", "--threshold", "2"),
    "edit near -1": (*EDIT, "--suppress", "sea", "--near", "-1"),
    "edit strength nan": (*EDIT, "--suppress", "sea", "--threshold", "0.1", "--strength", "nan"),
    "edit strength inf": (*EDIT, "--suppress", "sea", "--threshold", "0.1", "--strength", "inf"),
    "edit strength 0": (*EDIT, "--suppress", "sea", "--threshold", "0.1", "--strength", "0"),
    "edit gain alone": (*EDIT, "--gain", "0"),
    "edit layers alone": (*EDIT, "--layers", "0"),
    "edit named nan": (*EDIT, "--layers", "0", "--gain", "nan"),
    "edit layer 3": (*EDIT, "--layers", "3", "--gain", "0"),
    "edit head 4": (*EDIT, "--heads", "4", "--gain", "0"),
    "edit vector 8": (*EDIT, "--vectors", "8", "--gain", "0"),
    "edit vector -1": (*EDIT, "--vectors", "-1", "--gain", "0"),
    "edit another model": ("edit", "{work}/other", *EDIT[2:], "--layers", "0", "--gain", "0"),
    "edit without decomposition": ("edit", "{work}/clip", "-o", "{out}", "--suppress", "sea"),
    "edit a spec": ("edit", "{work}/clip", "--decomposition", "{work}/spec", "-o", "{out}", "--suppress", "sea"),
    "save nothing": ("save-edited",),
    "save without spec": SAVE[:4],
    "save no spec": (*SAVE[:-1], "{work}/d"),
    "save onto itself": ("save-edited", "{work}/clip", "-o", "{work}/clip", "--overwrite", *SAVE[4:]),
    "save inside": ("save-edited", "{work}/clip", "-o", "{work}/clip/sub", *SAVE[4:]),
    "save around": ("save-edited", "{work}/clip", "-o", "{work}", "--overwrite", *SAVE[4:]),
    "save onto a file": ("save-edited", "{work}/clip", "-o", "{work}/concepts.txt", *SAVE[4:]),
    "save in use": ("save-edited", "{work}/clip", "-o", "{work}/d", *SAVE[4:]),
    "save another base": ("save-edited", "{work}/other", *SAVE[2:]),
    "save no base": ("save-edited", "{work}/none", *SAVE[2:]),
    "save a long base": ("save-edited", LONG, *SAVE[2:]),
    "save a long output": ("save-edited", "{work}/clip", "-o", "{work}/" + LONG, *SAVE[4:]),
    "verify nothing": ("verify",),
    "verify a base": ("verify", "{work}/clip"),
    "verify with another base": ("verify", "{work}/edited", "--base", "{work}/other"),
    "verify with no base": ("verify", "{work}/edited", "--base", "{work}/none"),
    "verify with no spec": ("verify", "{work}/edited", "--spec", "{work}/none"),
    "verify a hostile name": ("verify", "\x1b]0;owned\x07/a/b"),
    "revert a base": ("revert", "{work}/clip", "-o", "{out}"),
    "revert nothing there": ("revert", "{work}/none", "-o", "{out}"),
    "revert onto itself": ("revert", "{work}/edited", "-o", "{work}/edited", "--overwrite"),
    "revert without output": ("revert", "{work}/edited"),
}


class TestBadInput:
    @pytest.fixture(scope="class")
    def scene(self, work, saved):
        tiny.save_clip(work / "other", seed=4)
        return work, tree(work)

    @pytest.mark.parametrize("name", list(BAD))
    def test_one_line_and_nothing_written(self, scene, tmp_path, name):
        work, before = scene
        out = tmp_path / "out"
        message = refused(sith(*(word.replace("{work}", str(work)).replace("{out}", str(out)) for word in BAD[name])))
        assert len(message) < 2100
        assert not out.exists()
        assert tree(work) == before
        assert not list(work.rglob("*.partial"))

    @pytest.mark.parametrize("name", ["decompose", "edit", "save-edited"])
    def test_the_good_ones_are_not_refused(self, scene, tmp_path, name):
        # The control: what the bad ones are made from works.
        work, _ = scene
        words = {"decompose": DECOMPOSE, "edit": (*EDIT, "--layers", "0", "--gain", "0"), "save-edited": SAVE}[name]
        ran = sith(*(word.replace("{work}", str(work)).replace("{out}", str(tmp_path / "out")) for word in words))
        assert ran.code == 0, ran.err
        assert (tmp_path / "out").is_dir()

    @pytest.mark.parametrize("option", ["--layers", "--heads", "--vectors"])
    @pytest.mark.parametrize(
        "value",
        [
            *(",", "1,", ",1", "0 1", "0;1", "0x1", "1e3", "\xb2", "\uff11", "+1", "--", "-", "None", "0,,1", "1_0"),
            *("0\n", "\x1b", "'", "$(id)", "99999999999999999999", "-99999999999999999999", "0.0", "nan"),
        ],
    )
    def test_hostile_numbers(self, scene, option, value):
        ran = sith("show", scene[0] / "d", option, value, "--json")
        if ran.code == 0:
            assert isinstance(ran.data, list)
        else:
            refused(ran)

    @pytest.mark.parametrize(
        "content",
        [b"", b"\n\n\n", b"one\n", b"one\nONE\n", b"\xff\xfe\n", b"ok\n\xc3\x28\n", b"a\n" + b"b" * 1_000_000, b"\0"],
    )
    def test_concept_files(self, work, tmp_path, content):
        (tmp_path / "concepts.txt").write_bytes(content)
        options = ("--concepts", tmp_path / "concepts.txt", "-o", tmp_path / "out")
        assert len(refused(sith("decompose", work / "clip", *options))) < 1000
        assert not (tmp_path / "out").exists()

    def test_damaged_weights(self, work, saved, tmp_path):
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

    def test_another_family(self, work, tmp_path):
        shutil.copytree(work / "clip", tmp_path / "vit")
        config = json.loads((tmp_path / "vit" / "config.json").read_text())
        for change in ({"model_type": "vit"}, {"model_type": None}, {"architectures": ["CLIPTextModel"]}):
            (tmp_path / "vit" / "config.json").write_text(json.dumps({**config, **change}))
            options = ("--concepts", work / "concepts.txt", "-o", tmp_path / "out")
            assert "supported" in refused(sith("decompose", tmp_path / "vit", *options))


class TestInterrupted:
    """Ctrl-C and a full disk: the exit code says so, and no half of anything stays."""

    @pytest.fixture
    def commands(self, work, saved, tmp_path):
        out = ("-o", tmp_path / "out")
        return {
            "decompose": ("decompose", work / "clip", "--concepts", work / "concepts.txt", *out),
            "edit": ("edit", work / "clip", "--decomposition", work / "d", "--layers", "0", "--gain", "0", *out),
            "save-edited": ("save-edited", work / "clip", "--spec", work / "spec", *out),
            "revert": ("revert", work / "edited", *out),
        }

    def test_while_decomposing(self, commands, tmp_path, monkeypatch):
        decompose = import_module("sith_hf.decomposition.decompose")

        calls = []

        def stop(*args, **kwargs):
            calls.append(args)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        real = decompose.factored_svd
        monkeypatch.setattr(decompose, "factored_svd", stop)
        ran = sith(*commands["decompose"])
        assert ran.code == 130
        assert ran.out == ""
        assert "Traceback" not in ran.err
        assert ran.err.rstrip().endswith("Stopped. Nothing was left half-written.")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("place", [(os, "replace"), (os, "fsync"), (Path, "mkdir")], ids=lambda place: place[1])
    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["stop", "full"]
    )
    @pytest.mark.parametrize("name", ["decompose", "edit", "save-edited"])
    def test_while_writing(self, commands, tmp_path, monkeypatch, name, error, place):
        def fail(*args, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(*place, fail)
            ran = sith(*commands[name])
        if isinstance(error, OSError):
            assert "No space left on device" in refused(ran)
        assert ran.code == (2 if isinstance(error, OSError) else 130)
        assert "Traceback" not in ran.err
        assert not any(tmp_path.iterdir())

    def test_between_two_files(self, commands, tmp_path, monkeypatch):
        # Both files appear together, or neither does.
        real, calls = os.replace, []

        def second(*args, **kwargs):
            calls.append(args)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", second)
            assert sith(*commands["decompose"]).code == 130
        assert not (tmp_path / "out" / "decomposition.safetensors").exists()
        assert not list((tmp_path / "out").glob(".*"))
        assert sith(*commands["decompose"]).code == 0

    def test_while_copying(self, commands, tmp_path, monkeypatch):
        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint, "_copy", stop)
        for name in ("save-edited", "revert"):
            assert sith(*commands[name]).code == 130
            assert not any(tmp_path.iterdir())


PROBE = """
import sys
from sith_hf.cli import COMMANDS, sith_hf
for words in ([], *([name] for name in COMMANDS)):
    assert sith_hf.main([*words, "--help"], standalone_mode=False) == 0
    heavy = {"torch", "transformers", "datasets", "evaluate", "accelerate", "numpy"} & set(sys.modules)
    assert not heavy, (words, heavy)
import torch
assert "torch" in sys.modules
"""


class TestProcess:
    def run(self, *words, **options):
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, **options)

    def test_help_imports_nothing_heavy(self):
        done = self.run(sys.executable, "-c", PROBE)
        assert done.returncode == 0, done.stderr
        for name, (_, line) in COMMANDS.items():
            assert f"{name} " in done.stdout
            assert line in done.stdout
        assert done.stderr == ""

    def test_python_m(self):
        done = self.run(sys.executable, "-m", "sith_hf", "--version")
        assert done.returncode == 0
        assert done.stdout.startswith("sith-hf, version ")

    def test_a_refusal_has_no_traceback(self, work):
        done = self.run(sys.executable, "-m", "sith_hf", "save-edited", work / "none", "--spec", work, "-o", work / "x")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("Error: ")
        assert len(done.stderr.splitlines()) == 1

    def test_every_command_is_known_to_help(self):
        for name in COMMANDS:
            ran = sith(name, "--help")
            assert ran.code == 0
            assert f"sith-hf {name} [OPTIONS]" in ran.out
        assert "explode" in refused(sith("explode", "--help"))
