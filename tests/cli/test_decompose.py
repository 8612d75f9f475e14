"""``sith-hf decompose``: outputs, the choice of a text tower, and refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import transformers

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from tests.cli.conftest import WORDS
from tests.support.cli import refused, sith, succeeded
from tests.support.raw import SINGLE

DECOMPOSE = ("decompose", "{work}/clip", "--concepts", "{work}/concepts.txt", "-o", "{out}")


def test_it_writes_a_decomposition_and_its_dictionary(scene, work):
    data = scene.decompose.data
    assert data["layers"] == [0, 1, 2]
    assert (data["heads"], data["vectors"], data["poles"]) == (4, 8, ["+", "-"])
    assert (data["concepts"], data["blank"], data["duplicates"]) == (len(WORDS), 1, 1)
    assert Path(data["decomposition"]) == work / "d" / "decomposition.safetensors"
    assert Decomposition.from_pretrained(work / "d").num_heads == 4
    assert len(ConceptDictionary.from_pretrained(work / "d")) == len(WORDS)
    assert {path.name for path in (work / "d").iterdir()} == {"decomposition.safetensors", "dictionary.safetensors"}
    assert "decomposing" in scene.decompose.err


def test_every_option_reaches_the_decomposition(work, tmp_path):
    options = ("--layers", "-1,0", "--rank", "3", "--poles", "+", "--method", "omp", "--sparsity", "2")
    extra = ("--no-fold", "--centre", "--dictionary", work / "d")
    ran = succeeded(sith("decompose", work / "clip", *options, *extra, "--details", "-o", tmp_path / "d"))
    assert "mean fidelity" in ran.out
    assert str(tmp_path / "d" / "decomposition.safetensors") in ran.out
    made = Decomposition.from_pretrained(tmp_path / "d")
    assert (made.layers, made.rank, made.poles, made.concept.shape[-1]) == ((0, 2), 3, ("+",), 2)
    assert (made.settings["fold"], made.settings["centre"], made.settings["method"]) == (False, True, "omp")


def test_the_memory_for_a_large_dictionary_is_announced(work, tmp_path, monkeypatch):
    arguments = ["decompose", work / "clip", "--dictionary", work / "d", "--layers", "-1", "--rank", "1", "-o"]
    assert "GB" not in succeeded(sith(*arguments, tmp_path / "small")).err
    monkeypatch.setattr("sith_hf.cli.decompose.LARGE", len(WORDS))
    assert re.search(r"\d+\.\d GB", succeeded(sith(*arguments, tmp_path / "large")).err)


class TestTextTower:
    @pytest.mark.parametrize("kind", ["tower", "projected"])
    def test_a_vision_model_is_edited_with_the_text_tower_of_another(self, work, tmp_path, kind):
        options = ("--concepts", work / "concepts.txt", "--layers", "-1", "-o", tmp_path / "d")
        assert "--text-model" in refused(sith("decompose", work / kind, *options))
        assert not (tmp_path / "d").exists()
        text = ("--text-model", work / "clip")
        succeeded(sith("decompose", work / kind, *options, *text))
        named = ("--suppress", "sea", "--threshold", "0.1", "--yes")
        edit = ("edit", work / kind, "--decomposition", tmp_path / "d", *named, "-o", tmp_path / "spec")
        succeeded(sith(*edit, *text))
        succeeded(sith("save-edited", work / kind, "--spec", tmp_path / "spec", "-o", tmp_path / "edited"))
        succeeded(sith("verify", tmp_path / "edited", "--base", work / kind))
        _, report = transformers.CLIPVisionModel.from_pretrained(tmp_path / "edited", output_loading_info=True)
        assert not report["missing_keys"]

    def test_a_vision_model_without_its_text_model_says_how_to_name_it(self, work, tmp_path):
        text = ("--text-model", work / "clip")
        options = ("--concepts", work / "concepts.txt", "--layers", "-1", "-o", tmp_path / "d")
        succeeded(sith("decompose", work / "tower", *options, *text))
        for rule in (("--suppress", "sea", "--top", "1"), ("--gain", "0", "--layers", "-1", "--heads", "0")):
            edit = ("edit", work / "tower", "--decomposition", tmp_path / "d", *rule, "--dry-run")
            assert "--text-model" in refused(sith(*edit))
            succeeded(sith(*edit, *text))

    def test_a_companion_without_text_is_refused(self, work, tmp_path):
        options = ("--concepts", work / "concepts.txt", "-o", tmp_path / "d")
        for other in ("tower", "projected", "none"):
            assert other in refused(sith("decompose", work / "tower", *options, "--text-model", work / other))

    def test_an_encoded_dictionary_needs_no_tokenizer(self, work, tmp_path):
        (tmp_path / "clip").mkdir()
        for name in ("config.json", SINGLE):
            shutil.copyfile(work / "clip" / name, tmp_path / "clip" / name)
        succeeded(sith("decompose", tmp_path / "clip", "--dictionary", work / "d", "-o", tmp_path / "d"))
        options = ("--concepts", work / "concepts.txt", "-o", tmp_path / "other")
        assert "tokenizer" in refused(sith("decompose", tmp_path / "clip", *options))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("decompose",), "MODEL"),
        (DECOMPOSE[:4], "--output"),
        (("decompose", "{work}/none", *DECOMPOSE[2:]), "none"),
        (("decompose", "{work}/d", *DECOMPOSE[2:]), "config.json"),
        (("decompose", "x" * 5000, *DECOMPOSE[2:]), "x" * 100),
        (("decompose", "\x1b[31mred\u202e/a/b", *DECOMPOSE[2:]), "red"),
        ((*DECOMPOSE, "--layers", "3"), "3"),
        ((*DECOMPOSE, "--layers", "2,-1"), "twice"),
        ((*DECOMPOSE, "--rank", "9"), "9"),
        ((*DECOMPOSE, "--poles", "-"), "'-'"),
        ((*DECOMPOSE, "--method", "magic"), "magic"),
        ((*DECOMPOSE, "--sparsity", "17"), "17"),
        ((*DECOMPOSE, "--coherence-weight", "nan"), "nan"),
        ((*DECOMPOSE, "--template", "no place"), "no place"),
        ((*DECOMPOSE, "--image-mean", "{work}/none"), "none"),
        ((*DECOMPOSE, "--image-mean", "{work}/clip/model.safetensors"), "image_mean"),
        ((*DECOMPOSE, "--dictionary", "{work}/d"), "--dictionary"),
        ((*DECOMPOSE, "--column", "x"), "--dataset"),
        (("decompose", "{work}/clip", "--dataset", "{work}", "-o", "{out}"), "--column"),
        ((*DECOMPOSE[:2], "-o", "{out}", "--dictionary", "{work}/d", "--template", "a {}"), "--template"),
        ((*DECOMPOSE[:2], "-o", "{out}", "--dictionary", "{work}/clip"), "dictionary.safetensors"),
        ((*DECOMPOSE[:3], "{work}/none.txt", "-o", "{out}"), "none.txt"),
        ((*DECOMPOSE[:3], "{work}/clip/model.safetensors", "-o", "{out}"), "UTF-8"),
        ((*DECOMPOSE[:-1], "{work}/concepts.txt"), "concepts.txt"),
        ((*DECOMPOSE[:-1], "{work}/concepts.txt/below"), "below"),
    ],
)
def test_refused(refuses, words, named):
    refuses(words, named)


def test_the_command_that_the_refused_ones_are_made_from_is_not(work, tmp_path):
    succeeded(sith(*(word.replace("{work}", str(work)).replace("{out}", str(tmp_path / "out")) for word in DECOMPOSE)))
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"one\n", b"one\nONE\n", b"ok\n\xc3\x28\n", b"a\n" + b"b" * 1_000_000]
)
def test_refused_concept_files(work, tmp_path, content):
    (tmp_path / "concepts.txt").write_bytes(content)
    options = ("--concepts", tmp_path / "concepts.txt", "-o", tmp_path / "out")
    assert len(refused(sith("decompose", work / "clip", *options))) < 1000
    assert not (tmp_path / "out").exists()


def test_another_family_is_refused(work, tmp_path):
    shutil.copytree(work / "clip", tmp_path / "vit")
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    for change in ({"model_type": "vit"}, {"model_type": None}, {"architectures": ["CLIPTextModel"]}):
        (tmp_path / "vit" / "config.json").write_text(json.dumps({**config, **change}))
        options = ("--concepts", work / "concepts.txt", "-o", tmp_path / "out")
        assert "supported" in refused(sith("decompose", tmp_path / "vit", *options))


class TestDataset:
    @pytest.fixture
    def words(self, tmp_path, monkeypatch):
        """A folder named as a loader of datasets is, with two splits of two configurations."""
        folder = tmp_path / "text"
        folder.mkdir()
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: en\n  data_files: en/*\n- config_name: de\n  data_files: de/*\n---\n"
        )
        for name, texts in {"en/test.csv": "sea\nsky\nsand\n", "de/test.csv": "Meer\nHimmel\n"}.items():
            (folder / name).parent.mkdir()
            (folder / name).write_text(f"word\n{texts}")
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def decompose(self, work, *options):
        few = ("--layers", "-1", "--rank", "1", "--sparsity", "2", "--dataset", "text", "--column", "word")
        return sith("decompose", work / "clip", *few, "-o", "d", *options)

    def test_config_and_split(self, words, work):
        assert "'en', 'de'" in refused(self.decompose(work))
        succeeded(self.decompose(work, "--config", "en"))
        assert ConceptDictionary.from_pretrained(words / "d").texts == ("sea", "sky", "sand")
        assert "no split test" in refused(self.decompose(work, "--config", "en", "--split", "test"))
        assert "no revisions" in refused(self.decompose(work, "--config", "en", "--data-revision", "main"))

    @pytest.mark.parametrize("option", ["--split", "--config", "--data-revision"])
    def test_options_of_a_dataset_need_one(self, option, work, tmp_path):
        message = refused(sith("decompose", work / "clip", option, "x", "-o", tmp_path / "d"))
        assert f"{option} belongs to --dataset" in message
        assert not (tmp_path / "d").exists()
