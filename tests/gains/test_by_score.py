"""Rules by score: thresholds, the three ways, unscored poles, and protected concepts."""

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch

from sith_hf.errors import InputError
from sith_hf.gains import Gains, Keep, Scores, Selection, by_threshold, three_way, topic_shares
from tests.support.made import tiny_concepts, tiny_editor

NAN = math.nan


def scores_of(made, values, topic="places", rest=1.0):
    """Scores of ``rest`` but for the (layer, head, vector) of ``values``, which have one score for each pole."""
    value = torch.full(made.fidelity.shape, rest)
    for key, poles in values.items():
        value[key] = torch.tensor(poles)
    return Scores.of(made, value, topic=topic, judge="a person", record={})


@pytest.fixture(scope="module")
def drawn(made):
    """Random scores, fractions and silences among them."""
    generator = torch.Generator().manual_seed(0)
    value = (1 + 4 * torch.rand(made.fidelity.shape, generator=generator)).mul(4).round().div(4)
    value[torch.rand(value.shape, generator=generator) < 0.2] = NAN
    return Scores.of(made, value, topic="places", judge="dice", record={})


def literal(scores, made, rule, both_poles):
    """Gains and unscored vectors by plain loops."""
    gain, unscored = {}, set()
    for layer, head, vector in product(made.layers, range(made.num_heads), range(made.rank)):
        poles = scores.value[made.layers.index(layer), head, vector].tolist()
        known = [s for s in poles if not math.isnan(s)]
        if not known or (both_poles and len(known) < len(poles)):
            unscored.add((layer, head, vector))
            continue
        new = rule(sum(known) / len(known) if both_poles else max(known))
        if new is not None:
            gain[layer, head, vector] = new
    return gain, unscored


@pytest.mark.parametrize("both_poles", [False, True])
@pytest.mark.parametrize("threshold", [1.25, 3.0, 4.25])
def test_a_threshold_by_literal_loops(threshold, both_poles, drawn, made):
    wanted, unscored = literal(drawn, made, lambda s: 0.5 if s >= threshold else None, both_poles)
    chosen = by_threshold(drawn, made, threshold=threshold, gain=0.5, select=Selection(both_poles=both_poles))
    assert dict(chosen.gain) == wanted != {}
    assert set(chosen.reason) == set(wanted)
    assert chosen.unscored == unscored != set()
    assert not chosen.protected


@pytest.mark.parametrize("both_poles", [False, True])
@pytest.mark.parametrize("limits", [(3.0, 4.0), (2.0, 4.5), (3.0, 3.0)])
def test_three_ways_by_literal_loops(limits, both_poles, drawn, made):
    low, high = limits
    rule = lambda s: 0.0 if s >= high else -1.0 if s >= low else None  # noqa: E731
    wanted, unscored = literal(drawn, made, rule, both_poles)
    chosen = three_way(drawn, made, invert_from=low, remove_from=high, select=Selection(both_poles=both_poles))
    assert dict(chosen.gain) == wanted
    assert set(wanted.values()) == ({0.0} if low == high else {0.0, -1.0})
    assert chosen.unscored == unscored


def test_whole_scores_go_the_papers_three_ways(made):
    found = three_way(scores_of(made, {(0, 0, i): [s, 1.0] for i, s in enumerate([1.0, 2.0, 3.0, 4.0, 5.0])}), made)
    assert dict(found.gain) == {(0, 0, 2): -1.0, (0, 0, 3): 0.0, (0, 0, 4): 0.0}
    between = three_way(scores_of(made, {(0, 0, 0): [2.99, 1.0], (0, 0, 1): [3.01, 1.0], (0, 0, 2): [3.99, 1.0]}), made)
    assert dict(between.gain) == {(0, 0, 1): -1.0, (0, 0, 2): -1.0}


def test_rounding_does_not_keep_a_vector_out(made):
    just = float(torch.nextafter(torch.tensor(3.0), torch.tensor(0.0)))
    assert set(by_threshold(scores_of(made, {(0, 0, 0): [just, 1.0], (0, 0, 1): [2.99, 1.0]}), made).gain) == {
        (0, 0, 0)
    }


def test_a_silent_judge_chooses_nothing(made):
    silent = scores_of(made, {}, rest=NAN)
    for chosen in (by_threshold(silent, made), three_way(silent, made)):
        assert len(chosen) == 0
        assert len(chosen.unscored) == made.singular_values.numel()
    assert len(by_threshold(scores_of(made, {}, rest=5.0), made)) == made.singular_values.numel()  # the control


def test_one_known_pole_is_enough_for_the_highest_and_not_for_the_mean(made):
    scores = scores_of(made, {(1, 2, 3): [NAN, 4.0]})
    assert set(by_threshold(scores, made).gain) == {(1, 2, 3)}
    mean = by_threshold(scores, made, select=Selection(both_poles=True))
    assert not mean.gain
    assert mean.unscored == {(1, 2, 3)}


def test_only_the_named_layers_and_heads_are_looked_at(drawn, made):
    everything = by_threshold(drawn, made)
    some = by_threshold(drawn, made, select=Selection([-1, 0], iter([1, 2])))
    assert set(some.gain) == {k for k in everything.gain if k[0] in (0, 2) and k[1] in (1, 2)} != set()
    assert some.unscored == {k for k in everything.unscored if k[0] in (0, 2) and k[1] in (1, 2)} != set()


# ---------------------------------------------------------------- protected concepts

ON, OFF = (0, 1, 2), (0, 1, 3)


@pytest.fixture(scope="module")
def places(made):
    return scores_of(made, {ON: [5.0, 1.0], OFF: [1.0, 4.0]})


def test_a_vector_whose_other_pole_is_to_be_kept_is_protected(places, made):
    keep = scores_of(made, {ON: [1.0, 3.0], OFF: [2.9, 1.0]}, topic="animals")
    for rule in (by_threshold, three_way):
        chosen = rule(places, made, keep=Keep(keep))
        assert set(chosen.gain) == {OFF}
        assert set(chosen.protected) == {ON}
        assert "animals" in chosen.protected[ON]
        assert "places" in chosen.protected[ON]
        assert set(rule(places, made).gain) == {ON, OFF}  # the control
        damped = rule(places, made, keep=Keep(keep, gain=0.5))
        assert damped.gain[ON] == 0.5
        assert damped.gain[OFF] == 0.0
        assert set(damped.protected) == {ON}


def test_only_the_other_pole_protects(places, made):
    same = scores_of(made, {ON: [5.0, 1.0]}, topic="animals")
    assert not by_threshold(places, made, keep=Keep(same)).protected
    assert by_threshold(places, made, keep=Keep(scores_of(made, {ON: [1.0, 5.0]}))).protected


def test_what_is_not_a_candidate_is_not_called_protected(places, made):
    keep = scores_of(made, {}, topic="animals", rest=5.0)
    chosen = by_threshold(places, made, keep=Keep(keep))
    assert set(chosen.protected) == {ON, OFF}
    assert not chosen.gain


def test_a_higher_keep_threshold_protects_no_more(drawn, made):
    keep = replace(drawn, value=drawn.value.flip(0), topic="animals")
    sets = [set(by_threshold(drawn, made, keep=Keep(keep, t)).protected) for t in (2.0, 3.0, 4.0, 5.0)]
    assert all(a >= b for a, b in pairwise(sets))
    assert len(sets[0]) > len(sets[-1])


def test_silence_about_what_is_to_be_kept_protects_nothing_and_is_reported(places, made):
    chosen = by_threshold(places, made, keep=Keep(scores_of(made, {ON: [1.0, NAN]}, topic="animals")))
    assert set(chosen.gain) == {ON, OFF}
    assert "no score on animals" in chosen.reason[ON]
    assert "no score" not in chosen.reason[OFF]


def test_keep_needs_both_poles(tmp_path):
    made = tiny_editor(tmp_path).decompose(tiny_concepts(), poles="+")
    scores = scores_of(made, {ON: [5.0]})
    with pytest.raises(InputError, match="one pole"):
        by_threshold(scores, made, keep=Keep(scores))
    assert set(by_threshold(scores, made, select=Selection(both_poles=True)).gain) == {ON}


# ---------------------------------------------------------------- refusals, and gains together


def test_scores_of_other_explanations_are_refused(places, made, tmp_path):
    other = tiny_editor(tmp_path, seed=1).decompose(tiny_concepts())
    for use in (
        lambda: by_threshold(places, other),
        lambda: three_way(places, other),
        lambda: topic_shares(places, other),
        lambda: by_threshold(scores_of(other, {}), other, keep=Keep(places)),
    ):
        with pytest.raises(InputError, match="other explanations"):
            use()


@pytest.mark.parametrize("value", [0.0, 1.0, 5.01, NAN, math.inf, True, "3", None])
def test_limits_off_the_scale_are_refused(value, places, made):
    for use in (
        lambda: by_threshold(places, made, threshold=value),
        lambda: three_way(places, made, invert_from=value),
        lambda: three_way(places, made, remove_from=value),
        lambda: by_threshold(places, made, keep=Keep(places, value)),
    ):
        with pytest.raises(InputError, match=r"threshold|from"):
            use()


def test_limits_in_the_wrong_order_and_bad_gains_are_refused(places, made):
    with pytest.raises(InputError, match="at most remove_from"):
        three_way(places, made, invert_from=4.5, remove_from=3.0)
    with pytest.raises(InputError, match="gain"):
        Keep(places, gain=math.inf)
    for bad in ({"gain": NAN}, {"select": Selection([3])}, {"select": Selection(None, [4])}):
        with pytest.raises(InputError):
            by_threshold(places, made, **bad)


def test_shares_are_scores_from_nought_to_one(made):
    share = topic_shares(scores_of(made, {ON: [5.0, 3.0], OFF: [NAN, NAN], (2, 0, 0): [NAN, 2.0]}), made)
    assert (share[ON], share[OFF], share[2, 0, 0], float(share.sum())) == (1.0, 0.0, 0.25, 1.25)
    assert topic_shares(scores_of(made, {ON: [5.0, 3.0]}), made, Selection(both_poles=True))[ON] == 0.75


def test_protected_and_unscored_are_joined():
    a = Gains({(0, 0, 0): 0.5}, {(0, 0, 0): "a"}, {(0, 0, 1): "kept"}, frozenset({(0, 0, 2)}))
    b = Gains({(0, 0, 1): 0.0}, {(0, 0, 1): "b"}, {(0, 0, 1): "again", (0, 0, 3): "too"}, frozenset({(0, 0, 4)}))
    both = a.then(b)
    assert dict(both.protected) == {(0, 0, 1): "kept; again", (0, 0, 3): "too"}
    assert both.unscored == {(0, 0, 2), (0, 0, 4)}
    assert dict(both.gain) == {(0, 0, 0): 0.5, (0, 0, 1): 0.0}
    with pytest.raises(TypeError):
        both.protected[0, 0, 9] = "x"
    assert not Gains().protected
    assert not Gains().unscored


def test_a_selection_is_every_vector_of_every_named_pair(made):
    everything = product(range(3), range(4), range(made.rank))
    assert list(Selection().vectors(made)) == [(key, key) for key in everything]
    some = dict(Selection([-1], [0, 3]).vectors(made))
    assert list(some) == list(some.values()) == list(product([2], [0, 3], range(made.rank)))
    last = replace(made, layers=(5, 6, 7))
    assert next(Selection([-1], iter([1])).vectors(last)) == ((7, 1, 0), (2, 1, 0))
