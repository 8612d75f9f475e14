"""Every block of code and every command of every kind of card runs, each on its own, with the results that it names.

tests/test_publish.py runs the Python of cards on the Hub; tests/checkpoint/test_lora.py that of adapters.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from sith_hf.cards import snippets
from sith_hf.cards.facts import BASE_FOLDER
from sith_hf.checkpoint import export_adapter, save_edited
from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import Proof, SithEditor
from sith_hf.publish import card_of
from sith_hf.recipe import Recipe
from sith_hf.world import embedded_checkpoint
from tests.support.cli import sith, succeeded
from tests.support.raw import tree

ROOT = Path(__file__).parents[2]


class Made:
    """The embedded checkpoint, and an artifact of each kind, in folders."""

    def __init__(self, root: Path) -> None:
        editor = SithEditor.from_pretrained("embedded")
        words = editor.encode(ConceptDictionary.from_texts(Recipe.shipped("demo").dictionary.texts or ()))
        self.decomposition = editor.decompose(words, layers=[-1])
        spec = editor.suppress("sea", "road").spec
        self.folders = {name: root / name for name in ("edited", "spec", "decomposition", "dictionary", "adapter")}
        for name, artifact in {"spec": spec, "decomposition": self.decomposition, "dictionary": words}.items():
            artifact.save_pretrained(self.folders[name])
        save_edited("embedded", spec, self.folders["edited"], measure=Proof(editor=editor))
        export_adapter(spec, self.folders["adapter"])

    def card(self, kind: str) -> str:
        """The card of a folder, with the places of this machine."""
        text = (self.folders[kind] / "README.md").read_text() if kind == "adapter" else card_of(self.folders[kind])
        places = {
            snippets.FOLDER: self.folders[kind],
            BASE_FOLDER: embedded_checkpoint(),
            "path/to/this/adapter": self.folders[kind],
            "path/to/the/spec": self.folders["spec"],
            "path/to/the/dictionary": self.folders["dictionary"],
        }
        for name, folder in places.items():
            text = text.replace(name, str(folder))
        return text


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("code"))


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


PYTHON = {"edited": 4, "spec": 1, "decomposition": 1, "dictionary": 1, "adapter": 1}


@pytest.mark.parametrize("kind", PYTHON)
def test_every_block_of_python_runs_alone(made, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    found = blocks(made.card(kind), "python")
    assert len(found) == PYTHON[kind]
    for code in found:
        assert "path/to" not in code
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {})
        assert "print(" not in code or printed.getvalue().strip()


def test_the_pipeline_scores_the_concepts_of_the_edit(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = blocks(made.card("edited"), "python")[0]
    assert 'pipeline("zero-shot-image-classification"' in code
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    lines = dict(line.split(": ") for line in printed.getvalue().splitlines())
    assert {"sea", "road"} <= set(lines)
    assert sum(map(float, lines.values())) == pytest.approx(1.0, abs=0.01)


def run(card: str) -> None:
    """Run the commands of a card as a shell reads them."""
    (text,) = blocks(card, "sh")
    program, *arguments = shlex.split(text)
    assert program == "sith-hf"
    succeeded(sith(*arguments))


def test_the_command_of_an_edit_writes_the_same_folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(made.card("edited"))
    assert tree(tmp_path / "again") == tree(made.folders["edited"])


def test_the_command_of_a_spec_writes_the_edited_checkpoint(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(made.card("spec"))
    weights = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert weights == (made.folders["edited"] / "model.safetensors").read_bytes()


def test_the_command_of_a_decomposition_makes_the_same(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(made.card("decomposition"))
    again = Decomposition.from_pretrained(tmp_path / "again")
    assert (again.layers, again.rank, again.texts) == ((3,), 16, made.decomposition.texts)
    assert torch.equal(again.concept, made.decomposition.concept)
    assert again.settings == made.decomposition.settings


def test_the_command_of_an_adapter_makes_the_same(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(made.card("adapter"))
    assert tree(tmp_path / "again") == tree(made.folders["adapter"])


class TestPipelines:
    FILES = ("preprocessor_config.json", "tokenizer.json")

    @pytest.fixture
    def folder(self, tmp_path):
        for name in self.FILES:
            (tmp_path / name).touch()
        return tmp_path

    @pytest.mark.parametrize("task", snippets._CALLS)
    def test_they_are_python_whatever_a_concept_is_called(self, folder, task):
        hostile = ("'''", '"); import os; ("', "``` x", "{labels} {{x}}", "a\\", "\u202ex", "é 運動", "n\nn", "x" * 61)
        for text in hostile:
            code = snippets.pipeline_code(task, folder, "me/x", [text])
            compile(code, "card", "exec")
            assert code.isascii()
            assert "`" not in code
            assert "import os\n" not in code

    def test_labels(self, folder):
        task = "zero-shot-image-classification"
        assert "['sea', 'a photo']" in snippets.pipeline_code(task, folder, "me/x", ["sea"])
        assert "['a photo', 'a drawing']" in snippets.pipeline_code(task, folder, "me/x", [" ", "x" * 61])
        assert "['a', 'b', 'c', 'd']" in snippets.pipeline_code(task, folder, "me/x", list("abcde"))
        assert "['a', 'b']" in snippets.pipeline_code(task, folder, "me/x", list("aab"))

    def test_without_the_files_of_a_processor_there_is_none(self, folder):
        task = "zero-shot-image-classification"
        (folder / "tokenizer.json").unlink()
        assert snippets.pipeline_code(task, folder, "me/x", []) is None
        assert snippets.pipeline_code("image-feature-extraction", folder, "me/x", []) is not None
        (folder / "preprocessor_config.json").unlink()
        assert snippets.pipeline_code("image-feature-extraction", folder, "me/x", []) is None
        assert snippets.pipeline_code("image-text-to-text", folder, "me/x", []) is None


@pytest.mark.parametrize("text", ["my pictures", "a'b", "$(id)", "`id`", "a;b", "*", "-x", "é"])
def test_commands_are_quoted(text):
    assert shlex.split(snippets.command("sith-hf", "--images", text)) == ["sith-hf", "--images", text]


def test_the_citation_is_that_of_the_repository():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    names = " and ".join(f"{each['family-names']}, {each['given-names']}" for each in paper["authors"])
    cited = " ".join(snippets.CITATION.split())
    assert f"author = {{{names}}}" in cited
    assert paper["title"] in cited.replace("{CLIP}", "CLIP")
    assert all(str(value) in cited for value in (paper["collection-title"], paper["year"], paper["url"]))
