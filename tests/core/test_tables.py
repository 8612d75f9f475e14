"""Untrusted text reaches a terminal on one line, cut, and without control characters."""

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sith_hf.core.escaping import sanitize
from sith_hf.core.tables import Screen, table
from sith_hf.decomposition.explanation import Explanation, Match, explanation_rows, match_rows

HOSTILE = {
    "ansi colour": "\x1b[31mred\x1b[0m",
    "clear screen": "\x1b[2J\x1b[H",
    "window title": "\x1b]0;owned\x07",
    "c1 control": "\x9b31m",
    "newline": "sea\nlayer 9 head 9",
    "carriage return": "safe\rEVIL",
    "tab and backspace": "a\tb\b\b",
    "line separators": "a\u2028b\u2029c\x85d",
    "right-to-left override": "abc\u202egpj.exe",
    "isolate": "\u2066abc\u2069",
    "zero width": "se\u200ba\ufeff",
    "tags": "sea\U000e0041\U000e007f",
    "private use": "\ue000",
    "half a surrogate": "\ud800",
    "null": "a\x00b",
}
MARKUP = ["[red]sea[/red]", "[bold", "[/]", "[link=http://x]y[/link]", ":smile:", "\\[red]", "[@click=quit]q[/]"]


def obeyed(text: str) -> list[str]:
    """The characters of ``text`` that a terminal would act upon instead of showing them."""
    return [
        c for c in text if (c != "\n" and unicodedata.category(c)[0] == "C") or unicodedata.category(c) in ("Zl", "Zp")
    ]


def test_sanitize_disarms():
    for kind, text in HOSTILE.items():
        assert obeyed(text) or "\n" in text, kind  # the control: the raw text is indeed hostile
        shown = sanitize(text)
        assert not obeyed(shown), kind
        assert "\n" not in shown, kind
        shown.encode("utf-8")


@given(st.text(st.characters(), max_size=60), st.integers(2, 50))
@settings(deadline=None)
def test_sanitize_is_one_safe_line_within_its_limit(text, limit):
    shown = sanitize(text, limit)
    assert len(shown) <= limit
    assert not obeyed(shown)
    assert len(shown.splitlines()) <= 1
    assert sanitize(shown, limit) == shown


def test_sanitize_leaves_harmless_text_alone():
    for text in ("", "sea", "café", "运动", "night sky — 50 %", "👍", "e\u0301", *MARKUP, "x" * 120):
        assert sanitize(text) == text


def test_sanitize_shows_that_it_cut():
    shown = sanitize("x" * 1_000_000)
    assert len(shown) == 120
    assert shown.endswith("…")
    assert not sanitize("x" * 120).endswith("…")
    assert len(sanitize("\x1b" * 120)) == 120  # escapes count at the length that they are shown in


@pytest.mark.parametrize("place", ["cell", "title", "heading"])
def test_table_sanitizes_every_place(place):
    harmless = table(["layer", "concept"], [[1, "sea"], [2, "sky"]], "explanations")
    for text in HOSTILE.values():
        parts = {"cell": "sea", "title": "explanations", "heading": "concept"} | {place: text}
        shown = table(["layer", parts["heading"]], [[1, parts["cell"]], [2, "sky"]], parts["title"])
        assert not obeyed(shown)
        assert shown.count("\n") == harmless.count("\n")  # no line was forged


def test_table_does_not_read_markup():
    for text in MARKUP:
        assert table(["layer", text], [[1, text]], text).count(text) == 3


WORDS = " ".join(f"concept{i}" for i in range(60)) + " \u6c99\u6ee9\u548c\u5927\u6d77\u7684\u7167\u7247" * 5
ROWS = [[3, 2, 0, "+", 0.412, 0.61, WORDS], [11, 12, 63, "-", 0.1, 0.2, "silent"]]
HEADS = ["layer", "head", "vector", "pole", "energy", "fidelity", "writes (weight)"]


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 20])
def test_table_fits_the_terminal_and_cuts_nothing(width):
    shown = table(HEADS, ROWS, screen=Screen(width))
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "".join(shown.split()).count("concept") == 60
    assert shown.count("\u6ee9") == 5
    assert all(part in "".join(shown.split()) for part in ("fidelity", "0.610", "silent", "0.412"))
    assert "\u2026" not in shown


def test_table_is_one_line_for_each_row_where_there_is_no_terminal():
    shown = table(HEADS, ROWS, dim=(1,), screen=Screen())
    head, _, first, second = shown.splitlines()
    assert head.split() == ["layer", "head", "vector", "pole", "energy", "fidelity", "writes", "(weight)"]
    assert first.endswith(WORDS)
    assert second.split() == ["11", "12", "63", "-", "0.100", "0.200", "silent"]
    huge = table(["layer", "concepts"], [[3, "y" * 1_000_000]])
    assert huge.count("y") == 1 + 19_999  # a damaged file does not flood the output, and the cut shows
    assert "\u2026" in huge


def test_table_has_terminal_codes_only_where_they_are_wanted():
    shown = [table(HEADS, ROWS, dim=(1,), screen=Screen(width, colours)) for width in (80, 40) for colours in (0, 1)]
    assert [("\x1b" in text) for text in shown] == [False, True, False, True]
    assert table(HEADS, ROWS, screen=Screen(unicode=False)).splitlines()[1].strip("-") == ""


@pytest.mark.parametrize(
    ("variables", "terminal", "screen"),
    [
        ({"COLUMNS": "60"}, True, Screen(60, True)),
        ({"COLUMNS": "60", "NO_COLOR": "1"}, True, Screen(60, False)),
        ({"COLUMNS": "60", "TERM": "dumb"}, True, Screen()),
        ({"COLUMNS": "60"}, False, Screen()),
    ],
)
def test_screen_of_stdout(monkeypatch, variables, terminal, screen):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    stdout = io.StringIO()
    stdout.isatty = lambda: terminal
    monkeypatch.setattr("sys.stdout", stdout)
    assert Screen.of_stdout() == screen


def test_table_numbers():
    shown = table(["n", "weight", "text"], [[1, 0.12345, "a"], [20, 12.0, "b"], [300, float("nan"), None]])
    lines = [line for line in shown.splitlines() if line.strip()]
    assert [line.split() for line in lines[2:]] == [["1", "0.123", "a"], ["20", "12.000", "b"], ["300", "nan", "None"]]
    ends = {
        line.index(number) + len(number) for line, number in zip(lines[2:], ["0.123", "12.000", "nan"], strict=True)
    }
    assert len(ends) == 1  # to the right
    starts = {line.index(text) for line, text in zip(lines[2:], ["a", "b", "None"], strict=True)}
    assert len(starts) == 1  # text to the left


def test_table_without_rows_is_its_headings():
    lines = [line for line in table(["layer", "concepts"], []).splitlines() if line.strip()]
    assert lines[0].split() == ["layer", "concepts"]
    assert len(lines) <= 2


def test_rows_of_explanations_fit_their_columns():
    concepts = (("sea", 0.614), ("\x1b[2Jocean", 0.4))
    item = Explanation(1, 2, 3, "-", concepts, 1.5, 0.25, 0.5, 0.75, 0.125)
    columns, rows = explanation_rows([item], {})
    assert dict(zip(columns, rows[0], strict=True)) == {
        "layer": 1, "head": 2, "vector": 3, "pole": "-", "energy": 0.25, "fidelity": 0.5,
        "writes (weight)": "sea 0.61, \x1b[2Jocean 0.40",
    }  # fmt: skip
    columns, rows = match_rows([Match(item, 0.7, 0.6)], {})
    row = dict(zip(columns, rows[0], strict=True))
    assert (row["strength"], row["share"], row["fidelity"], row["pole"]) == (0.7, 0.6, 0.5, "-")
    assert not obeyed(table(columns, rows))
    assert match_rows([], {})[1] == explanation_rows([], {})[1] == []
