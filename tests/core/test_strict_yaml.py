"""YAML from outside: plain data of a bounded size and depth, with the advice that a mistake needs."""

from __future__ import annotations

import pytest

from sith_hf.core import strict_yaml
from sith_hf.core.settings import Settings
from sith_hf.core.strict_yaml import MAX_CHARACTERS, MAX_DEPTH, read_yaml
from sith_hf.errors import InputError


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("title: " + "a" * MAX_CHARACTERS, "at most 1,000,000 characters, got 1,000,007"),
        ("[" * 100_000, "nested deeper than 50 levels"),
        ("{a: " * 100_000, "nested deeper than 50 levels"),
        ("- " * 100_000, "nested deeper than 50 levels"),
        ("a: &a [1]\nb: [*a, *a]", "line 2: .*references"),
        ("a: &a {b: 1}\nc: {<<: *a}", "references"),
        ("yes: 1", 'key yes is not a text; quote it: "yes"'),
        ("a: {no: 1}", 'key no is not a text; quote it: "no"'),
        ("2: 1", 'key 2 is not a text; quote it: "2"'),
    ],
)
def test_what_is_refused(text, complaint):
    with pytest.raises(InputError, match=f"^it.*{complaint}") as refused:
        read_yaml(text, "it")
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_the_number_of_values_is_bounded(monkeypatch):
    monkeypatch.setattr(strict_yaml, "MAX_VALUES", 1000)
    assert len(read_yaml("- a word\n" * 999, "it")) == 999
    with pytest.raises(InputError, match="more than 1,000 values"):
        read_yaml("- a word\n" * 1000, "it")


def test_what_is_read():
    assert read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "it") is not None
    assert read_yaml('{"yes": [1, two, true]}', "it") == {"yes": [1, "two", True]}


class Names(Settings):
    """Settings with texts."""

    classes: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("classes: [yes, no]", 'classes.0: expected a text, got true: .*quote them: "yes"; classes.1: .*got false'),
        ("classes: [on, 'off']", "classes.0: expected a text, got true"),
        ("classes: [a, 7]", 'classes.1: expected a text, got the number 7; quote it: "7"'),
        ("classes: [a, 1.5]", "got the number 1.5"),
        ("classes: [a, ~]", "valid string"),
    ],
)
def test_texts_without_quotes_are_told_apart(text, complaint):
    with pytest.raises(InputError, match=complaint):
        Names.from_data(read_yaml(text, "it"), "it")
    assert Names.from_data(read_yaml('classes: ["yes", "no", "7"]', "it"), "it").classes == ("yes", "no", "7")
