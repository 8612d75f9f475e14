"""HTML of untrusted texts: escaped, on one line, bounded, without scripts, styles of a page or addresses."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from sith_hf.core.escaping import sanitize
from sith_hf.core.html import bar, block, faint, folded, html_table, joined, text
from tests.core.test_tables import HOSTILE, obeyed
from tests.support.html import Page, unsafe

TAGS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></table><h1>owned",
    "&lt;b&gt;",
    '"><a href="https://evil.example">x</a>',
    "' onmouseover='x",
    "{{ config }}",
    "{0.__class__}",
    "<!--",
    "]]>",
    "$x^2$ **bold** `code`",
]


@pytest.mark.parametrize("hostile", [*HOSTILE.values(), *TAGS])
def test_a_hostile_text_is_shown_and_not_obeyed(hostile):
    page = Page.of(
        block(hostile, hostile, html_table([hostile], [[hostile], [joined([hostile, hostile])]]), faint(hostile))
        + folded(hostile, html_table([], [[hostile]]))
    )
    assert unsafe(page) == []
    assert obeyed(page.text) == []
    assert page.text.count(sanitize(hostile)) == 9


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_only_text(value):
    page = Page.of(html_table(["x"], [[value]]))
    assert page.tags == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
    assert unsafe(page) == []


def test_html_that_is_no_text_is_found():
    for html in ("<script>1</script>", '<a href="x">', "<p onclick=x>", '<p style="background:url(//x)">', "<b>"):
        assert unsafe(Page.of(html)), html


def test_numbers_are_short_and_aligned():
    html = html_table(["a", "b"], [[1, 0.123456789012345], [2, 3.0]])
    assert "0.123<" in html
    assert "0.1234" not in html
    assert html.count("text-align:right") == 6
    assert "text-align:left" in html_table(["a"], [["x"], [1]])


def test_what_is_left_out_is_said_and_long_texts_are_cut():
    assert "and 12,345 more" in html_table(["a"], [[1]], more=12345)
    assert "more" not in html_table(["a"], [[1]])
    assert len(text("x" * 10_000)) == 120


def test_a_bar_is_cut_at_the_whole():
    assert [re.findall(r"width:([\d.]+)em", bar(share))[0] for share in (-1, 0.5, 7)] == ["0.00", "2.50", "5.00"]


def test_a_table_without_rows_and_dim_rows():
    assert "<th" in html_table(["a"], [])
    assert html_table([], [[1], [2]], dim=[1]).count("opacity") == 1
    assert text(Markup("<b>x</b>")) == "<b>x</b>"
