"""Hostile concepts in every template: they reach the page as texts."""

from dataclasses import replace

import pytest
from jinja2 import Environment, PackageLoader

from sith_hf.explore import Explorer
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.head_view import head_view
from sith_hf.explore.html import percent, render
from sith_hf.explore.map_view import concept_map
from sith_hf.explore.search_view import search_view
from tests.support.html import Page
from tests.support.random_decomposition import TEXTS, random_decomposition

HOSTILE = (
    "<script>alert(1)</script>",
    '" onfocus="alert(1)" autofocus x="',
    "' onfocus='alert(1)' autofocus",
    "<img src=x onerror=alert(1)>",
    "</button></section><h1>",
    "{{ 7 * 7 }}${alert(1)}@children",
    "\u202eevil\x1b[31m\nline",
    "a" * 5000,
)


@pytest.fixture(scope="module")
def explorer():
    made = random_decomposition(HOSTILE + TEXTS[: len(TEXTS) - len(HOSTILE)])
    drivers = replace(made.drivers, texts=HOSTILE[:2])
    return Explorer(replace(made, drivers=drivers), "in memory")


def rendered(explorer, template):
    made = explorer.decomposition
    if template == "head.html.j2":
        return {"view": head_view(made, 3, 0), "size": 16}
    if template == "map.html.j2":
        return {"view": concept_map(made, HOSTILE[1], made.embeddings[1]), "open": (3, 0)}
    view = search_view(explorer, "beach")
    answers = [replace(view.answers[0], concept=text, meant=text, how=text) for text in HOSTILE]
    return {"view": replace(view, answers=tuple(answers))}


def unsafe(html):
    """What a hostile text adds to a page."""
    page = Page.of(html)
    added = [tag for tag in page.tags if tag in ("script", "img", "h1")]
    added += [name for _, name, _ in page.attributes if name.startswith("on") or name in ("autofocus", "x")]
    return added + page.open + [character for character in "\u202e\x1b" if character in html]


@pytest.mark.parametrize("template", ["head.html.j2", "map.html.j2", "search.html.j2"])
def test_nothing_gets_out_of_its_text(explorer, template):
    values = rendered(explorer, template)
    html = render(template, **values)
    assert unsafe(html) == []
    assert "a" * 2001 not in html
    raw = Environment(loader=PackageLoader("sith_hf.explore"), autoescape=False)
    raw.filters["verbatim"] = str
    assert unsafe(raw.get_template(template).render(**values)) != [], "the control: without escaping it does"


@pytest.mark.parametrize(
    "concept",
    [
        "\U0001f468\u200d\U0001f469",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "a\xadb",
        "\u202eevil",
        *HOSTILE[:-2],
    ],
)
def test_a_button_sends_back_what_it_is_about(concept):
    basket = Basket((Item(0.0, concept=concept),))
    html = render("basket.html.j2", basket=basket, words={basket.items[0].key: ""}, lowest=-1, highest=3)
    keys = [value for _, name, value in Page.of(html).attributes if name == "data-key"]
    assert keys == [f"concept:{concept}"] * 2
    assert unsafe(html) == []
    assert basket.without(keys[0]) == Basket()


def test_shares_have_two_digits():
    shares = (0, 0.0004, 0.001, 0.034, 0.0994, 0.0996, 0.5, 1)
    said = ["0 %", "<0.1 %", "0.1 %", "3.4 %", "9.9 %", "10 %", "50 %", "100 %"]
    assert [percent(share) for share in shares] == said
