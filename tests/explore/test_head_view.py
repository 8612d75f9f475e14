"""The open head: its numbers, its pages, and what is folded."""

import re

import pytest

from sith_hf.errors import InputError
from sith_hf.explore.found_images import DataUrl, ShownImage
from sith_hf.explore.head_view import PAGE, head_view
from sith_hf.explore.html import render
from tests.support.html import Page
from tests.support.random_decomposition import RANK, random_decomposition


@pytest.fixture(scope="module")
def made():
    return random_decomposition()


def html(view):
    return render("head.html.j2", view=view, size=PAGE)


def outside_of_details(text):
    """What a reader sees without unfolding anything."""
    while (shorter := re.sub(r"(</summary>)(?:(?!<details).)*?</details>", r"\1", text, flags=re.S)) != text:
        text = shorter
    return text


def test_the_numbers_are_those_of_the_decomposition(made):
    view = head_view(made, 5, 1)
    assert [vector.vector for vector in view.vectors] == list(range(RANK))
    for vector in view.vectors:
        for pole in vector.poles:
            item = made.explain(5, 1, vector.vector, pole.pole)
            assert [(word.text, word.value) for word in pole.writes] == list(item.concepts)
            assert (pole.fidelity, pole.ceiling, pole.chance) == (item.fidelity, item.ceiling, item.chance)
            assert (pole.p_value, pole.silent) == (item.p_value, item.silent)
            assert [(word.text, word.value) for word in pole.driven_by] == list(item.driven_by)
            assert vector.energy == item.energy_share
    assert head_view(made, 5, 0).vectors != view.vectors


def test_the_longest_bar_of_a_pole_is_full(made):
    for vector in head_view(made, 3, 2).vectors:
        for pole in vector.poles:
            assert max(word.length for word in pole.writes) == 1
            assert len({round(word.value / word.length, 9) for word in pole.writes}) == 1


def test_pages_have_every_vector_once():
    made = random_decomposition(rank=2 * PAGE + 3)
    views = [head_view(made, 3, 0, page) for page in range(3)]
    assert [vector.vector for view in views for vector in view.vectors] == list(range(2 * PAGE + 3))
    assert {view.pages for view in views} == {3}
    assert head_view(made, 3, 0, 99).vectors == views[-1].vectors
    assert head_view(made, 3, 0, -1).vectors == views[0].vectors
    assert html(views[1]).count('aria-current="page"') == 2


def test_words_of_silent_poles_are_folded_and_others_are_not(made):
    seen = outside_of_details(html(head_view(made, 3, 1)))
    poles = dict(re.findall(r'aria-label="(vector \d, pole .)">(.*?)</section>', seen, flags=re.S))
    items = [made.explain(3, 1, vector, pole) for vector in range(RANK) for pole in "+-"]
    assert {item.silent for item in items} == {True, False}
    for item in items:
        name = f"vector {item.vector}, pole {item.pole}"
        shown = "sith-writes" in poles.get(name, "")
        assert shown != item.silent, name


def test_a_vector_without_anything_to_say_is_one_line():
    made = random_decomposition(driven=False)
    view = next(head_view(made, layer, head) for layer in (3, 5) for head in range(3) if any(
        vector.folded for vector in head_view(made, layer, head).vectors))  # fmt: skip
    folded = [vector.folded for vector in view.vectors]
    assert folded == [all(made.explain(view.layer, view.head, v, p).silent for p in "+-") for v in range(RANK)]
    assert html(view).count("sith-folded") == sum(folded)
    spoken = ShownImage("an image", DataUrl("data:,"))
    quiet = folded.index(True)
    images = {(quiet, "+"): (spoken,)}
    assert not head_view(made, view.layer, view.head, images=images).vectors[quiet].folded


def test_every_vector_can_be_added_and_every_word_searched(made):
    page = Page.of(html(head_view(made, 5, 2)))
    actions = [value for tag, name, value in page.attributes if name == "data-action"]
    assert actions.count("add") == RANK
    words = [value for _, name, value in page.attributes if name == "data-concept"]
    assert set(words) <= {*made.texts, *made.drivers.texts}
    assert len(words) == actions.count("search") > RANK
    assert page.open == []


def test_pictures_are_neither_cut_nor_raw(made):
    long = DataUrl("data:image/webp;base64," + "A" * 5000)
    evil = ShownImage('"><script>', DataUrl('data:,"><script>'))
    page = Page.of(html(head_view(made, 3, 0, images={(0, "+"): (ShownImage("a", long, long), evil)})))
    assert [value for _, name, value in page.attributes if name == "src"] == [long, long, 'data:,"><script>']
    assert "script" not in page.tags


def test_what_is_not_known_is_left_out():
    shown = html(head_view(random_decomposition(known=False, driven=False), 3, 0))
    assert "chance" not in shown.replace("beyond chance are coloured", "")
    assert "driven by" not in shown
    assert "fidelity" in shown


def test_a_head_that_is_not_there(made):
    for place in ((4, 0), (3, 3), (3, -1)):
        with pytest.raises(InputError):
            head_view(made, *place)
