"""``sith-hf find``: concepts of the explanations, and other concepts, which the model must embed."""

from __future__ import annotations

import pytest

from tests.support.cli import refused, sith, succeeded


def test_a_concept_of_the_dictionary(work):
    found = succeeded(sith("find", work / "d", "sea", "--limit", "5", "--json")).data
    assert 1 <= len(found) <= 5
    assert all(row["strength"] > 0 for row in found)
    strengths = [row["strength"] for row in found]
    assert strengths == sorted(strengths, reverse=True)
    assert "sea" in [text for text, _ in found[0]["concepts"]]
    assert "strength" in succeeded(sith("find", work / "d", "sea", "--all")).out
    hidden = succeeded(sith("find", work / "d", "sea")).out
    assert "20 of 20 poles are silent" in hidden
    assert "strength" not in hidden


def test_a_concept_that_only_the_model_knows(work):
    refused(sith("find", work / "d", "submarine"))
    near = succeeded(sith("find", work / "d", "submarine", "--model", work / "clip", "--near", "0.05", "--json"))
    assert near.data
    nothing = succeeded(sith("find", work / "d", "xyzzy \x1b[31m", "--model", work / "clip", "--near", "1"))
    assert "xyzzy" in nothing.out
    assert sith("find", work / "d", "xyzzy", "--model", work / "clip", "--near", "1", "--json").data == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("{work}/d",), "CONCEPT"),
        (("{work}/d", " "), "blank"),
        (("{work}/d", " ", "--model", "{work}/clip"), "blank"),
        (("{work}/d", "\x1b[31mno\u202e"), "\\x1b[31mno\\u202e"),
        (("{work}/d", "sea", "--near", "nan"), "nan"),
        (("{work}/d", "sea", "--near", "2"), "2"),
        (("{work}/d", "sea", "--limit", "0"), "0"),
        (("{work}/d", "sub", "--model", "{work}/none"), "none"),
        (("{work}/spec", "sea"), "spec"),
    ],
)
def test_refused(refuses, words, named):
    refuses(("find", *words), named)
