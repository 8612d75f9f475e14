"""The first two sentences of a card of an edit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sith_hf.cards import headline
from sith_hf.cards.headline import TIMES, measured_line, named_concepts, tower_vectors
from sith_hf.edits import EditEffect, TowerSpecs
from tests.cards import golden
from tests.cards.golden import make_spec


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return golden.save_base(tmp_path_factory.mktemp("headline") / "tiny-clip")


def plain(text: str, limit: int) -> str:
    return text[:limit]


def edit(base, gains, **named):
    """An edit of one vector for each gain."""
    return make_spec(base, [(0, 0, number, gain) for number, gain in enumerate(gains)], named=named)


@pytest.mark.parametrize(
    ("gains", "named", "said"),
    [
        ([0.0, 0.0, 1.5], {"less": ["beach", "ocean"], "more": ["bird"]},
         "Suppresses beach and ocean, amplifies bird *1.5, in 3 of 96 vectors"),
        ([0.0], {"less": ["sea"]}, "Suppresses sea, in 1 of 96 vectors"),
        ([-1.0], {"less": ["sea"]}, "Inverts sea, in 1 of 96 vectors"),
        ([-0.5], {"less": ["sea"]}, "Inverts sea *-0.5, in 1 of 96 vectors"),
        ([0.25, 0.5], {"less": ["sea"]}, "Weakens sea *0.25 to *0.5, in 2 of 96 vectors"),
        ([1.25, 3.0], {"more": ["sea"]}, "Amplifies sea *1.25 to *3, in 2 of 96 vectors"),
        ([0.0], {"less": list("abcdefgh")}, "Suppresses a, b, c, d, e and 3 more, in 1 of 96 vectors"),
        ([0.0], {"less": [""]}, 'Suppresses "", in 1 of 96 vectors'),
        ([0.0, 0.0, 2.0], {}, "Removes 2 and amplifies 1 of 96 singular vectors"),
        ([0.5], {}, "Weakens 1 of 96 singular vectors"),
    ],
)  # fmt: skip
def test_it_says_what_was_done(base, gains, named, said):
    given = {direction: named.get(direction, ()) for direction in ("less", "more")} if named else {}
    spec = edit(base, gains, **given)
    assert headline(spec, plain) == f"{said.replace('*', TIMES)} of the vision tower"
    assert set(named_concepts(spec)) == {concept for concepts in named.values() for concept in concepts}


def test_of_many_vectors_it_has_commas(base):
    spec = edit(base, [0.0], less=["sea"], more=[])
    spec = replace(spec, base=replace(spec.base, settings={"num_hidden_layers": 48}))
    assert tower_vectors(spec) == 1536
    assert headline(spec).endswith("in 1 of 1,536 vectors of the vision tower")


@pytest.mark.parametrize("settings", [{}, {"num_hidden_layers": "3"}, {"num_hidden_layers": None}])
def test_of_an_earlier_release_it_counts_only_the_edited_ones(base, settings):
    spec = edit(base, [0.0, 0.0], less=["sea"], more=[])
    assert headline(replace(spec, base=replace(spec.base, settings=settings))) == (
        "Suppresses sea, in 2 vectors of the vision tower"
    )


def test_a_gain_on_the_other_side_of_one_has_no_figure(base):
    # Two edits of one vector, whose gains multiplied.
    spec = edit(base, [1.5], less=[], more=["bird"])
    assert spec.provenance is not None
    both = replace(spec.provenance, named=({"bird": "more", "sea": "less"},))
    assert headline(replace(spec, provenance=both)) == (
        f"Weakens sea, amplifies bird {TIMES}1.5, in 1 of 96 vectors of the vision tower"
    )


def test_of_two_towers(base):
    vision = edit(base, [0.0], less=["sea"], more=[])
    place = replace(vision.place, tower="text")
    text = replace(edit(base, [0.0, 0.0], less=["sea"], more=[]), place=place)
    assert headline(TowerSpecs((vision, text))) == (
        "Suppresses sea, in 1 of 96 vectors of the vision tower and 2 of 96 vectors of the text tower"
    )
    other = replace(edit(base, [2.0], less=[], more=["bird"]), place=place)
    assert headline(TowerSpecs((vision, other))) == (
        "Suppresses sea, in 1 of 96 vectors of the vision tower; "
        f"amplifies bird {TIMES}2, in 1 of 96 vectors of the text tower"
    )


def test_ten_thousand_characters_and_concepts_stay_one_short_line(base):
    spec = edit(base, [0.0], less=["<b>`x`|\n" * 10_000, *(f"concept {number}" for number in range(1000))], more=[])
    said = headline(spec)
    assert len(said) < 600
    assert "\n" not in said
    assert "<b>" not in said
    assert "<b>" in headline(spec, plain)  # the control


class TestMeasured:
    def effect(self, **changes):
        (item,) = golden.EFFECT["named"]
        return EditEffect.from_data({**golden.EFFECT, "named": [{**item, **changes}]}, "the effect")

    def test_nothing(self):
        assert measured_line(None, []) is None
        assert measured_line(EditEffect.from_data({**golden.EFFECT, "named": []}, "the effect"), []) is None

    def test_the_effect_beside_chance(self):
        said = "the similarity of images to the weakened concepts keeps 6% of its variation (other concepts 97%"
        assert measured_line(self.effect(), []) == f"{said}, random vectors 88%)"
        assert measured_line(self.effect(p_value=0.5), []) == f"{said}, random vectors 88%, no more than chance)"
        assert measured_line(self.effect(p_value=None, random=None), []) == f"{said})"
        assert measured_line(self.effect(mean=-0.5), []).endswith("88%, inverted)")

    def test_the_worst_group_comes_first(self):
        rows = [{"metric": name, "base": 0.5, "edited": 0.75} for name in ("a|b", "worst group", "worst")]
        assert measured_line(None, rows) == "worst group from 0.500 to 0.750"
        assert measured_line(None, rows[:1]) == "a\\|b from 0.500 to 0.750"
