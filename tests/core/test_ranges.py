"""Choices by number: lists and ranges, of all numbers and of a decomposition's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sith_hf.core.ranges import choose_numbers, is_range, parse_numbers
from sith_hf.core.strict_yaml import read_yaml
from sith_hf.errors import InputError
from sith_hf.recipe.overrides import overridden_values


def chosen(given, known=range(12)):
    return choose_numbers(given, "layers", known, lambda number: InputError(f"layer {number} does not exist"))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3,5,-1", (3, 5, 11)),
        ("-4:", (8, 9, 10, 11)),
        (":2", (0, 1)),
        (":-9", (0, 1, 2)),
        ("8-11", (8, 9, 10, 11)),
        ("-2--1", (10, 11)),
        ("2:4", (2, 3)),
        ("10:12", (10, 11)),
        ("Last2", (10, 11)),
        (" 0 , 2-3,-1", (0, 2, 3, 11)),
        ([1, "-2:"], (1, 10, 11)),
        (range(2), (0, 1)),
        (":", tuple(range(12))),
    ],
)
def test_a_choice_of_all_numbers(text, numbers):
    assert chosen(text) == numbers


@given(st.integers(-12, 11), st.integers(-12, 12))
def test_bounds_are_those_of_python(first, stop):
    wanted = tuple(range(12)[first:stop])
    if wanted:
        assert chosen(f"{first}:{stop}") == wanted
    else:
        with pytest.raises(InputError):
            chosen(f"{first}:{stop}")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("last2", (7, 11)), ("-2:", (7, 11)), ("3-11", (3, 7, 11)), ("7:", (7, 11)), (":8", (3, 7)), (":-1", (3, 7))],
)
def test_a_choice_of_a_part(text, numbers):
    assert chosen(text, (3, 7, 11)) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12", "layer 12 does not exist"),
        ("12:", "layer 12 does not exist"),
        ("-13:", "layer -13 does not exist"),
        ("0:14", "layer 14 does not exist"),
        ("last13", "there are 12 layers"),
        ("last0", "there are 12 layers"),
        ("11-8", "has no layers"),
        (":0", "has no layers"),
        ("8..11", "'8..11' is not a list of layers: write numbers such as 3,5,-1 or ranges such as -4:"),
        (None, "layers must be numbers"),
        ([True], "each of layers must be an integer"),
        ([1.0], "each of layers must be an integer"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        chosen(text)


def test_a_range_survives_yaml_and_set():
    assert read_yaml("[8:11, 12:30, 8-11, last4, ':4']", "x") == ["8:11", "12:30", "8-11", "last4", ":4"]
    values = overridden_values(["a=-4:", "a=8:11", "a=3,5,-1", "a=[-2,-1]", "a=5", "a={b: 1}"])
    assert [value for _, value in values] == ["-4:", "8:11", "3,5,-1", [-2, -1], 5, {"b": 1}]
    assert [is_range(text) for text in ("-4:", "3,-1:", "3,-1", "a:", "")] == [True, True, False, False, False]
    assert parse_numbers("3,5,-1", "layers") == (3, 5, -1)
