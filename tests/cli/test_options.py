"""Values of options: lists of numbers, concepts with gains."""

from __future__ import annotations

import click
import pytest

from sith_hf.cli.options import NUMBERS, ConceptGain


@pytest.mark.parametrize(("text", "numbers"), [("0", (0,)), ("-2,-1", (-2, -1)), ("3, 1", (3, 1)), ("1,1", (1, 1))])
def test_numbers(text, numbers):
    assert NUMBERS.convert(text, None, None) == numbers


@pytest.mark.parametrize("text", ["", ",", "1,", "0,,1", "0 1", "0;1", "1.5", "1e3", "0x1", "\xb2", "last", "9" * 5000])
def test_refused_numbers(text):
    with pytest.raises(click.BadParameter, match="whole numbers") as caught:
        NUMBERS.convert(text, None, None)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("text", "pair"),
    [("bird", ("bird", 1.5)), ("bird=2", ("bird", 2.0)), ("a=b=-1", ("a=b", -1.0)), ("x=inf", ("x", float("inf")))],
)
def test_concept_gains(text, pair):
    assert ConceptGain(1.5).convert(text, None, None) == pair


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sea=much", "'much' is not a number"),
        ("sea=", "'' is not a number"),
        ("\x1b[31msea\u202e=\x07much", r"'\x07much' is not a number"),
    ],
)
def test_refused_concept_gains(text, message):
    with pytest.raises(click.BadParameter) as caught:
        ConceptGain(1.5).convert(text, None, None)
    assert message in caught.value.message
    assert caught.value.message.isprintable()
