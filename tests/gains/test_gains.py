"""Gains are finite numbers of named vectors; gains of one vector multiply."""

import math
from dataclasses import FrozenInstanceError
from itertools import product

import numpy as np
import pytest
import torch

from sith_hf.edits.build import make_spec
from sith_hf.errors import InputError
from sith_hf.gains import Gains, by_concepts, by_name, check_gain

LAYERS, HEADS, SIZE = 3, 4, 8
NOT_GAINS = [math.nan, math.inf, -math.inf, True, False, None, "0", 10**400, torch.tensor(1.0), 1j, [0]]


@pytest.mark.parametrize("gain", NOT_GAINS, ids=repr)
def test_what_is_no_finite_number_is_no_gain(gain, editor, made):
    for use in (
        lambda: check_gain(gain),
        lambda: by_name(made, gain, heads=[0]),
        lambda: by_concepts(made, {"boat": made.embedding_of("boat")}, gain),
        lambda: make_spec(editor.tower, made, Gains({(0, 0, 0): gain}, {})),
    ):
        with pytest.raises(InputError, match="finite number"):
            use()


@pytest.mark.parametrize("gain", [0, 1, -1, 0.0, 3.5, -2e30, 1e-300, np.float64(2)])
def test_any_finite_number_is_a_gain(gain):
    assert check_gain(gain) == gain
    assert type(check_gain(gain)) is float or isinstance(check_gain(gain), np.float64)


# ---------------------------------------------------------------- by name


def test_by_name_is_every_combination(made):
    chosen = by_name(made, 2.0, layers=[0, -1], heads=[1, 3], vectors=[0])
    assert dict(chosen.gain) == {(layer, head, 0): 2.0 for layer in (0, 2) for head in (1, 3)}
    assert set(by_name(made, 0.0, heads=[2]).gain) == set(product(range(LAYERS), [2], range(SIZE)))
    assert set(by_name(made, 0.0, vectors=range(2)).gain) == set(product(range(LAYERS), range(HEADS), range(2)))
    iterators = by_name(made, 2.0, layers=iter([0, 2]), heads=iter([1, 3]), vectors=iter([0]))
    assert iterators.gain == chosen.gain
    assert by_name(made, 2.0, layers="0,last1", heads="-3,-1", vectors=":1").gain == chosen.gain


def test_by_name_refuses_what_is_not_there(made):
    with pytest.raises(InputError, match="name layers, heads or vectors"):
        by_name(made, 0.0)
    for wrong in (
        {"layers": [3]},
        {"layers": [-4]},
        {"heads": [4]},
        {"heads": [-5]},
        {"vectors": [8]},
        {"vectors": [0, -9]},
    ):
        with pytest.raises(InputError, match=r"layer|head|vector"):
            by_name(made, 0.0, **wrong)


# ---------------------------------------------------------------- together


def test_gains_of_one_vector_multiply(made):
    first = by_name(made, 0.5, layers=[0], heads=[0], vectors=[0, 1])
    second = by_name(made, 3.0, layers=[0], heads=[0], vectors=[1, 2])
    both = first.then(second)
    assert dict(both.gain) == {(0, 0, 0): 0.5, (0, 0, 1): 1.5, (0, 0, 2): 3.0}
    assert both.reason[0, 0, 1] == "named outright; named outright"
    assert both.gain == second.then(first).gain
    assert (len(first), len(second)) == (2, 2)
    assert dict(Gains().then(first).gain) == dict(first.then(Gains()).gain) == dict(first.gain)
    removed = by_name(made, 0.0, layers=[0], heads=[0], vectors=[0])
    assert removed.then(removed).gain[0, 0, 0] == 0


def test_gains_that_multiply_beyond_the_floats_are_refused(editor, made):
    huge = by_name(made, 1e200, layers=[0], heads=[0], vectors=[0])
    with pytest.raises(InputError, match="finite number"):
        make_spec(editor.tower, made, huge.then(huge))


def test_gains_are_read_only(made):
    chosen = by_name(made, 0.0, heads=[0])
    with pytest.raises(TypeError):
        chosen.gain[0, 0, 0] = 1.0
    with pytest.raises(FrozenInstanceError):
        chosen.gain = {}
