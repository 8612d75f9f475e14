"""``embedded`` is a name of the embedded checkpoint, unless a folder has this name."""

from __future__ import annotations

import pytest

from sith_hf.towers import checkpoint_path, load_model
from sith_hf.world import embedded_checkpoint
from tests.support.cli import refused, sith, succeeded
from tests.support.tiny import save_clip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("sea\nroad\nboat\ncar\nred\nblue\n")
    return tmp_path


def test_every_command_accepts_it(here):
    succeeded(sith("decompose", "embedded", "--concepts", "words.txt", "--layers", "-1", "--sparsity", 3, "-o", "d"))
    vector = ("--gain", 0, "--layers", "-1", "--heads", 0, "--vectors", 0)
    succeeded(sith("edit", "embedded", "--decomposition", "d", *vector, "-o", "s"))
    succeeded(sith("save-edited", "embedded", "--spec", "s", "-o", "e"))
    for base in ((), ("--base", "embedded"), ("--base", embedded_checkpoint())):
        assert succeeded(sith("verify", "e", *base)).out.startswith("verified")
    succeeded(sith("push-edited", "--base", "embedded", "--spec", "s", "--repo-id", "me/x", "--dry-run"))
    assert "edit_spec.safetensors" in refused(sith("revert", "embedded", "-o", "r"))


def test_a_folder_of_this_name_comes_first(here):
    assert checkpoint_path("embedded") == embedded_checkpoint()
    assert load_model("embedded").title == "embedded"
    save_clip(here / "embedded")
    assert load_model("embedded").folder.samefile(here / "embedded")


def test_a_name_close_to_it_is_none(here):
    assert "embeded" in refused(sith("decompose", "embeded", "-o", "d"))
