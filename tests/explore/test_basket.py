"""Baskets: items once and in order, gains, and texts that are no concept."""

import math

import pytest

from sith_hf.errors import InputError
from sith_hf.explore.basket import LONGEST, MOST, Basket, Item

SEA = Item(0.0, concept="sea")
VECTOR = Item(1.5, vector=(1, 2, 3))


def test_an_item_is_there_once_and_keeps_its_gain():
    basket = Basket().added(SEA).added(VECTOR).with_gain(SEA.key, 0.5)
    again = basket.added(Item(0.0, concept="Sea")).added(Item(0.0, vector=(1, 2, 3)))
    assert again == basket
    assert [item.gain for item in again.items] == [0.5, 1.5]


def test_baskets_do_not_change_each_other():
    one = Basket().added(SEA)
    other = one.without(SEA.key).added(VECTOR)
    assert one.items == (SEA,)
    assert other.items == (VECTOR,)


@pytest.mark.parametrize("gain", [math.nan, math.inf, "0", True])
def test_a_gain_is_a_finite_number(gain):
    with pytest.raises(InputError, match="finite"):
        Basket().added(SEA).with_gain(SEA.key, gain)


@pytest.mark.parametrize(
    "item", [{}, {"concept": "sea", "vector": (0, 0, 0)}, {"concept": " "}, {"concept": "x" * (LONGEST + 1)}]
)
def test_an_item_is_one_vector_or_one_short_concept(item):
    with pytest.raises(InputError):
        Item(0.0, **item)


def test_a_key_that_is_not_there_and_a_full_basket_are_refused():
    with pytest.raises(InputError, match="no longer in the basket"):
        Basket().with_gain("concept:sea", 0.0)
    full = Basket(tuple(Item(0.0, vector=(0, 0, n)) for n in range(MOST)))
    with pytest.raises(InputError, match="at most"):
        full.added(SEA)
