"""A recipe may extend any file of the user: one that is no recipe is refused, and none of its lines is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sith_hf.errors import InputError
from sith_hf.recipe import Recipe
from sith_hf.recipe.source import MAX_BYTES
from tests.support.cli import refused, sith

GOOD = "title: t\nedits: [{concepts: [a]}]\n"
SECRET = "hf_abcdefghij"
FOREIGN = {
    "passwd": f"root:x:0:0:{SECRET}:/root:/bin/bash\nbin:x:1:1::/:/sbin/nologin\n",
    "token": SECRET,
    "env": f"HF_TOKEN={SECRET}\nOTHER=1\n",
    "netrc": f"machine a\n  login b\n  password {SECRET}\n",
    "ini": f"[{SECRET}]\nkey = {SECRET}\n",
    "key": f"{SECRET}: {SECRET}\n",
    "repeated": f"{SECRET}: 1\n{SECRET}: 2\n",
    "number": f"1: {SECRET}\n{SECRET}: 2\n",
    "tag": f"title: !{SECRET} a\n",
    "int": f"title: !!int {SECRET}\n",
    "reference": f"title: *{SECRET}\n",
    "anchor": f"title: &{SECRET} 1\nbase: *{SECRET}\n",
    "directive": f"%{SECRET} 1\n---\na: b\n",
    "flow": f"title: [{SECRET}\n",
    "tab": f"title:\n\t{SECRET}: 1\n",
    "json": json.dumps({"auths": {SECRET: {"auth": SECRET}}}),
    "nested": f"title: t\nbase: {{{SECRET}: {SECRET}}}\n",
    "type": f"title: t\nedits: {SECRET}\n",
    "deep": f"edits: [{{concepts: [a], gain: {SECRET}}}]\n",
    "rule": f"edits: [{{rule: {SECRET}}}]\n",
    "judge": f"edits: [{{rule: threshold, judge: {{by: {SECRET}}}}}]\n",
    "date": f"title: 2020-01-01\ndescription: {SECRET}\n",
    "lines": f"{SECRET}\n---\n{SECRET}\n",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_no_line_of_a_file_that_is_no_recipe_is_shown(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text(FOREIGN[name])
    (tmp_path / "mine.yaml").write_text(f"extends: secret.txt\n{GOOD}")
    message = refused(sith("run", tmp_path / "mine.yaml", "-o", tmp_path / "out"))
    assert "secret.txt" in message
    assert SECRET not in message
    # The control: of a file that the user names, the message shows what is wrong.
    assert "secret.txt" in refused(sith("run", tmp_path / "secret.txt", "-o", tmp_path / "out"))


def test_the_users_own_file_is_quoted(tmp_path: Path) -> None:
    for name in ("repeated", "tag", "key"):
        (tmp_path / "mine.yaml").write_text(FOREIGN[name])
        with pytest.raises(InputError, match=SECRET):
            Recipe.from_file(tmp_path / "mine.yaml")


def test_a_part_of_a_recipe_can_be_extended(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("base: {model: me/it}\ndictionary: {column: c}\nedits: []\n")
    (tmp_path / "mine.yaml").write_text(
        "extends: part.yaml\ntitle: t\ndictionary: {file: a.txt}\nedits: [{concepts: [a]}]\n"
    )
    recipe = Recipe.from_file(tmp_path / "mine.yaml")
    assert (recipe.base.model, recipe.dictionary.file, recipe.dictionary.column) == ("me/it", "a.txt", None)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(50_000_000)
    with pytest.raises(InputError, match=f"at most {MAX_BYTES:,} bytes"):
        Recipe.from_file(tmp_path / "large.yaml")
