"""Texts on sheets that Pillow draws: no letter is a box."""

import pytest

from sith_hf.charts import drawable, fitted, font
from sith_hf.charts import drawn as module


def boxes(text, size=24):
    letters = font(size, text)
    return {c for c in text if bytes(letters.getmask(c)) == bytes(letters.getmask("\uffff"))}


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    module._wide_font.cache_clear()
    yield
    module._wide_font.cache_clear()


LETTERS = ["café", "Łódź", "ñandú", "\u0430\u0431\u0432", "\u03b1\u03b2\u03b3", "a — b", "x\u00d7y"]


@pytest.mark.parametrize("text", LETTERS)
def test_accents_greek_and_cyrillic_are_drawn(text):
    assert drawable(text, "(concept 4)") == text
    assert not boxes(text)


def test_the_check_sees_boxes():
    assert boxes("\u904b\u52d5") == {"\u904b", "\u52d5"}
    assert not boxes("a red door")


@pytest.mark.parametrize("text", ["\u904b\u52d5", "\u05d0\u05d1", "\u0645\u0631"])
def test_letters_without_a_font_or_from_right_to_left(text):
    assert drawable(text, "(concept 4)") == "(concept 4)"
    assert drawable(f"a {text}") == "a ??"
    assert not boxes(fitted(f"a {text}", 400, 24))


@pytest.mark.parametrize(("text", "drawn"), [("a red door", "a red door"), ("a\nb", "a\\nb"), ("", "")])
def test_letters_of_english(text, drawn):
    assert drawable(text, "(concept 4)") == drawn
    assert font(24, drawn) is font(24)


@pytest.mark.usefixtures("without_matplotlib")
@pytest.mark.parametrize(("text", "drawn"), [("café", "cafe"), ("\u0430\u0431", "(concept 4)")])
def test_without_matplotlib(text, drawn):
    assert drawable(text, "(concept 4)") == drawn
    assert font(24, text) is font(24)
