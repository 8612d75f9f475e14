"""The AUC against a direct count, and its p-value: exact for few images, uniform under the null."""

from itertools import combinations

import numpy as np
import pytest

from sith_hf.grounding.agreement import DRAWS, agreement


def counted(top, random):
    """The AUC by comparing every pair."""
    return np.mean([(a > b) + 0.5 * (a == b) for a in top for b in random])


def distance(p_values):
    """Kolmogorov and Smirnov's distance from the uniform distribution, times the root of the number."""
    ordered, count = np.sort(p_values), len(p_values)
    steps = np.arange(count + 1) / count
    return np.sqrt(count) * max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())


@pytest.mark.parametrize("seed", range(5))
def test_the_auc_is_a_count_of_pairs(seed):
    random = np.random.default_rng(seed)
    top, others = random.integers(0, 6, 16), random.integers(0, 5, 40)
    found = agreement(top, others)
    assert found.auc == pytest.approx(counted(top, others), abs=1e-12)
    assert found.auc != pytest.approx(counted(others, top), abs=1e-3), "the check tells the sides apart"
    assert (found.top, found.random) == (16, 40)


def test_the_p_value_is_that_of_all_divisions():
    values = [3.0, 5.0, 2.0, 9.0, 4.0, 1.0, 6.0, 6.0, 0.5]
    top, others = values[:4], values[4:]
    every = [
        counted([values[i] for i in chosen], [values[i] for i in range(9) if i not in chosen])
        for chosen in combinations(range(9), 4)
    ]
    exact = np.mean([auc >= counted(top, others) - 1e-12 for auc in every])
    assert agreement(top, others).p_value == pytest.approx(exact, abs=0.015)


def test_p_values_are_uniform_if_nothing_connects_words_and_images():
    random = np.random.default_rng(0)
    null = [agreement(random.normal(size=16), random.normal(size=64)).p_value for _ in range(600)]
    # The 0.999 quantile of Kolmogorov's distribution.
    assert distance(null) < 1.95
    some = [agreement(random.normal(0.4, size=16), random.normal(size=64)).p_value for _ in range(600)]
    assert distance(some) > 4, "the check sees a connection"


def test_agreement_and_disagreement():
    assert agreement(range(100, 116), range(64)).auc == 1
    assert agreement(range(100, 116), range(64)).p_value == 1 / (1 + DRAWS)
    assert agreement(range(16), range(100, 164)).p_value == 1
    same = agreement([1.0] * 16, [1.0] * 64)
    assert (same.auc, same.p_value) == (0.5, 1)
    assert agreement([2.0], [1.0]).p_value == pytest.approx(0.5, abs=0.02)
    assert agreement([2.0] * 3, [1.0]).auc == 1
