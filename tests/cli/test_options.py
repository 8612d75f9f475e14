"""Values of options: lists of numbers, concepts with gains."""

from __future__ import annotations

import click
import pytest

from sith_hf.cli.options import LAYERS, NUMBERS, concept_gains
from sith_hf.core.ranges import parse_numbers
from sith_hf.errors import InputError


@pytest.mark.parametrize(("text", "numbers"), [("0", (0,)), ("-2,-1", (-2, -1)), ("3, 1", (3, 1)), ("1,1", (1, 1))])
def test_numbers(text, numbers):
    assert NUMBERS.convert(text, None, None) == numbers


@pytest.mark.parametrize("text", ["", ",", "1,", "0,,1", "0 1", "0;1", "1.5", "1e3", "0x1", "\xb2", "last", "9" * 5000])
def test_refused_numbers(text):
    with pytest.raises(click.BadParameter, match="whole numbers") as caught:
        NUMBERS.convert(text, None, None)
    assert len(caught.value.message) < 400


KNOWN = {"salt, pepper", "a=b", "x"}.__contains__


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("bird", [("bird", 1.5)]),
        ("bird=2", [("bird", 2.0)]),
        ("x=inf", [("x", float("inf"))]),
        ("sea,road", [("sea", 1.5), ("road", 1.5)]),
        ("sea, road=0.5", [("sea", 1.5), ("road", 0.5)]),
        # A concept of the decomposition is never split.
        ("salt, pepper", [("salt, pepper", 1.5)]),
        ("salt, pepper=0", [("salt, pepper", 0.0)]),
        ("a=b", [("a=b", 1.5)]),
        ("a=b=-1", [("a=b", -1.0)]),
        ("sea,a=b", [("sea", 1.5), ("a=b", 1.5)]),
    ],
)
def test_concept_gains(text, pairs):
    assert concept_gains([text], 1.5, KNOWN) == pairs
    assert concept_gains([text, "x"], 1.5, KNOWN) == [*pairs, ("x", 1.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sea=much", "'much' is not a number"),
        ("sea=", "'' is not a number"),
        ("", "empty concept"),
        ("sea,", "empty concept"),
        (",", "empty concept"),
        ("=0.5", "empty concept"),
        ("\x1b[31msea\u202e=\x07much", "is not a number"),
    ],
)
def test_refused_concept_gains(text, message):
    with pytest.raises(InputError) as caught:
        concept_gains([text], 1.5, KNOWN)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["-4:", ":4", "8-11", "last4", "3,5,-1", "0, last2"])
def test_choices_of_layers(text):
    assert LAYERS.convert(text, None, None) == parse_numbers(text, "layers")


@pytest.mark.parametrize("text", ["", "4-", "last", "1.5", "8..11", "0 1", "9" * 5000, "-4\u202e:"])
def test_refused_choices_of_layers(text):
    with pytest.raises(click.BadParameter, match="is not a list of layers: write numbers such as 3,5,-1") as caught:
        LAYERS.convert(text, None, None)
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()
