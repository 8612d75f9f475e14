"""``sith-hf card`` of the artifacts of the main job."""

from __future__ import annotations

import pytest

from tests.cards.golden import make_dictionary
from tests.support.cli import refused, sith, succeeded
from tests.support.hub.cards import validate


@pytest.mark.parametrize(
    ("name", "title"), [("edited", ", edited"), ("spec", "# An edit of clip"), ("d", "# Singular vectors of clip")]
)
def test_of_a_folder(work, name, title):
    ran = succeeded(sith("card", work / name))
    assert title in ran.out
    assert validate(ran.out) == ([], [])
    assert str(work) not in ran.out
    assert '"path/to/this/folder"' in ran.out
    assert "data/train.parquet" not in ran.out


def test_of_a_dictionary(tmp_path):
    make_dictionary().save_pretrained(tmp_path)
    ran = succeeded(sith("card", tmp_path))
    assert "# A dictionary of 6 concepts" in ran.out
    assert validate(ran.out) == ([], [])


def test_of_another_folder(work):
    assert "sith-hf wrote" in refused(sith("card", work / "clip"))
    assert "edit_spec" in refused(sith("card", work / "spec", "--write"))
