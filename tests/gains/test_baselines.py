"""Baselines have the size of the edit that they are compared with, and are never the edit itself."""

from collections import Counter

import pytest
import torch

from sith_hf.edits import make_spec
from sith_hf.errors import InputError
from sith_hf.gains import Gains, by_name
from sith_hf.gains.baselines import random_vectors, whole_heads, with_baselines

EDIT = Gains({(0, 0, 0): 0.0, (0, 1, 0): 0.0, (0, 1, 3): -1.0, (2, 3, 5): 0.5, (2, 0, 1): 0.0})


def sizes(gains):
    return Counter((key[0], gain) for key, gain in gains.gain.items())


def test_as_many_of_the_same_layers_with_the_same_gains(made):
    draws = [random_vectors(made, EDIT, seed) for seed in range(20)]
    for draw in draws:
        assert sizes(draw) == sizes(EDIT)
        assert draw.gain != EDIT.gain
    assert len({tuple(sorted(draw.gain.items())) for draw in draws}) > 10


def test_a_seed_repeats(made):
    assert random_vectors(made, EDIT, 3) == random_vectors(made, EDIT, 3)
    shuffled = Gains(dict(reversed(EDIT.gain.items())))
    assert random_vectors(made, shuffled, 3).gain == random_vectors(made, EDIT, 3).gain


def test_draws_are_even(made):
    one = Gains({(1, 2, 3): 0.0})
    count = Counter(next(iter(random_vectors(made, one, seed).gain)) for seed in range(400))
    assert (1, 2, 3) not in count
    assert len(count) == 31
    assert max(count.values()) < 30


def test_never_the_edit_itself_where_there_is_hardly_a_choice(made):
    every = by_name(made, 0.0, layers=[1])
    two_ways = Gains({**every.gain, (1, 0, 0): 0.5})
    for seed in range(5):
        draw = random_vectors(made, two_ways, seed)
        assert set(draw.gain) == set(every.gain)
        assert draw.gain != two_ways.gain
        all_but_one = Gains({key: 0.0 for key in every.gain if key != (1, 3, 7)})
        assert random_vectors(made, all_but_one, seed).gain != all_but_one.gain
    for impossible in (every, Gains()):
        with pytest.raises(InputError, match="no other vectors"):
            random_vectors(made, impossible, 0)


def test_whole_heads_are_those_that_hold_the_edit(made):
    held = Counter()
    for (layer, head, vector), gain in EDIT.gain.items():
        held[layer, head] += (1 - gain) ** 2 * float(made.singular_values[layer, head, vector]) ** 2
    order = [where for where, _ in held.most_common()]
    chosen = whole_heads(made, EDIT)
    heads = {k[:2] for k in chosen.gain}
    assert heads == set(order[: len(heads)]) < set(order)
    assert len(chosen) == len(heads) * made.rank
    assert set(chosen.gain.values()) == {0.0}
    share = sum(held[w] for w in heads) / held.total()
    assert share >= 0.5
    assert share - min(held[w] for w in heads) / held.total() < 0.5


def test_gains_of_one_hold_nothing(made):
    for nothing in (Gains(), Gains({(0, 0, 0): 1.0})):
        with pytest.raises(InputError, match="no vector"):
            whole_heads(made, nothing)
    both = Gains({(0, 0, 0): 1.0, (0, 1, 0): 0.0})
    assert {k[:2] for k in whole_heads(made, both).gain} == {(0, 1)}


def test_what_does_not_fit_is_refused(made):
    for use in (
        lambda: random_vectors(made, EDIT, -1),
        lambda: random_vectors(made, EDIT, 0.5),
        lambda: random_vectors(made, Gains({(5, 0, 0): 0.0}), 0),
        lambda: whole_heads(made, Gains({(0, 9, 0): 0.0})),
    ):
        with pytest.raises(InputError):
            use()


def test_specs_by_name(editor, made):
    chosen = with_baselines(made, EDIT, seeds=(0, 4))
    specs = {name: make_spec(editor.tower, made, gains) for name, gains in chosen.items()}
    assert list(specs) == ["edited", "random 0", "random 4", "whole heads"]
    assert specs["edited"].keys == sorted(EDIT.gain)
    assert [len(spec) for spec in specs.values()] == [5, 5, 5, len(whole_heads(made, EDIT))]
    head = specs["whole heads"]
    layer, number = head.keys[0][:2]
    # A removed head adds the same to every token, whatever the input.
    weight, _ = head.apply(layer, editor.tower.layers[layer].out_weight, editor.tower.layers[layer].out_bias)
    columns = slice(number * 8, number * 8 + 8)
    left = weight[:, columns] - weight[:, columns].mean(dim=0)
    assert float(left.norm()) < 1e-5 * float(editor.tower.layers[layer].out_weight[:, columns].norm())
    assert torch.equal(
        weight[:, 8 * ((number + 1) % 4)], editor.tower.layers[layer].out_weight[:, 8 * ((number + 1) % 4)]
    )
