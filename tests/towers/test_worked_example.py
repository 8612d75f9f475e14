"""The worked example of a new family in the design notes: it is the code of the package, and running it makes one."""

import re
from pathlib import Path

import pytest
import torch

import sith_hf
from sith_hf import SithEditor
from sith_hf.errors import UnsupportedModel
from sith_hf.towers import registry
from tests.support.owl import owl_model

ROOT = Path(sith_hf.__file__).parents[1]


@pytest.fixture(scope="module")
def blocks():
    notes = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = notes.partition("### A new family\n")[2].partition("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


def test_the_example_is_the_file_of_the_family(blocks):
    file = re.search(r"the whole of `(\S+)`", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"))
    assert blocks[0] == (ROOT / file[1]).read_text(encoding="utf-8")


def test_its_lines_are_in_the_registry(blocks):
    line, names = blocks[1].splitlines()[0], re.search(r"\(\.\.\., (.+)\)", blocks[1])[1].split(", ")
    lines = (ROOT / "sith_hf" / "towers" / "registry.py").read_text(encoding="utf-8").splitlines()
    assert line in lines
    assert {family.name.upper() for family in registry.FAMILIES} >= set(names)


def test_running_the_example_makes_a_family(blocks, monkeypatch):
    without = tuple(family for family in registry.FAMILIES if not family.name.startswith("owl"))
    monkeypatch.setattr(registry, "FAMILIES", without)
    with pytest.raises(UnsupportedModel, match="'owlvit' is not supported"):
        SithEditor.from_model(owl_model("OwlViTModel"))
    space = {"__name__": "example"}
    exec(compile(blocks[0], "docs/design.md", "exec", dont_inherit=True), space)
    monkeypatch.setattr(registry, "FAMILIES", (*without, space["OWLVIT"]))
    editor = SithEditor.from_model(owl_model("OwlViTModel"))
    assert editor.tower.family == "owlvit"
    assert editor.tower.hidden_size == 32
    assert torch.isfinite(editor.tower.to_joint(torch.ones(32))).all()


def test_the_error_of_an_unknown_family_names_the_section():
    notes = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    title = re.search(r"docs/design\.md, '(.+?)'", registry._ADD)[1]
    assert f"### {title}\n" in notes
