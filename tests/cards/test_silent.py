"""Cards, edit tables and printed specs show no words of poles that are explained no better than chance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sith_hf.cards import decomposition_card, silent_poles, spec_card
from sith_hf.cards.facts import topics
from sith_hf.gains import gain_table
from tests.support.made import tiny_concepts

HEARD, SILENT = (2, 0, 0), (2, 0, 1)


@pytest.fixture(scope="module")
def made(editor):
    """A decomposition in which one vector is explained beyond chance, in both poles."""
    found = editor.decompose(tiny_concepts(), layers=[2])
    p = found.p_values.clamp(min=0.5)
    p[0, 0, 0] = 1e-6
    return replace(found, significance=replace(found.significance, p=p))


def draft(editor, made):
    return editor.with_decomposition(made).edit().vectors(0.0, heads=[0], vectors=[0, 1])


def words(made, key):
    return {text for pole in made.poles for text, _ in made.explain(*key, pole).concepts}


def test_a_card_of_an_edit(editor, made):
    spec = draft(editor, made).spec
    assert silent_poles(spec) == (2, 4)
    quiet = words(made, SILENT) - words(made, HEARD)
    assert quiet
    card = spec_card(spec, repo_id=None)
    assert "2 of the 4 poles are silent" in card
    assert all(word in card for word in words(made, HEARD))
    assert not any(word in card or word in str(spec) for word in quiet)
    assert set(topics(spec)) <= words(made, HEARD)
    assert "silent" in str(spec)
    # Where it is not known, the words are there.
    old = draft(editor, replace(made, significance=None)).spec
    assert silent_poles(old) is None
    assert "not compared with chance" in spec_card(old, repo_id=None)
    assert all(word in spec_card(old, repo_id=None) and word in str(old) for word in quiet)


def test_a_card_of_a_decomposition(made):
    card = decomposition_card(made, repo_id=None)
    assert f"2 of {made.fidelity.numel()} explanations are better than chance" in card
    assert made.explain(*HEARD).concepts[0][0] in card
    assert "not compared with chance" in decomposition_card(replace(made, significance=None), repo_id=None)


def test_a_table_of_an_edit(editor, made):
    rows = draft(editor, made).rows()
    assert [row["silent"] for row in rows] == [False, True]
    assert all(row["explanation"] for row in rows)  # JSON keeps everything
    text = gain_table(rows)
    assert "1 of 2 poles are silent" in text
    assert rows[0]["explanation"].split(" ")[0] in text
    assert rows[1]["explanation"].split(",")[0] not in text
    assert "silent" not in gain_table(draft(editor, replace(made, significance=None)).rows())
