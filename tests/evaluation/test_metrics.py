"""Metrics and the bootstrap as functions of arrays: known values, invariances, coverage of intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sith_hf.errors import InputError
from sith_hf.evaluation import metrics
from sith_hf.evaluation.bootstrap import interval, stratum_means
from sith_hf.evaluation.task import TaskData

SEEDS = st.integers(0, 2**31)


def unit(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class TestPredictions:
    def test_a_perfect_predictor_is_always_right(self):
        classes = np.eye(5)
        truth = np.array([0, 4, 2, 2, 1, 3])
        assert metrics.accuracy(metrics.predictions(classes[truth], classes), truth) == 1.0

    def test_a_constant_predictor_is_right_for_one_class(self):
        truth = np.array([0, 0, 0, 1, 2, 2])
        found = metrics.predictions(np.tile(np.eye(3)[2], (6, 1)), np.eye(3))
        assert metrics.accuracy(found, truth) == pytest.approx(2 / 6)
        assert metrics.accuracy_by(found, truth, truth) == {0: 0.0, 1: 0.0, 2: 1.0}

    def test_a_tie_goes_to_the_first_class(self):
        half = np.array([[0.5**0.5, 0.5**0.5]])
        assert metrics.predictions(half, np.eye(2)).tolist() == [0]
        assert metrics.predictions(half, np.eye(2)[::-1]).tolist() == [0]
        # Noise in the last digits decides nothing; a real difference does.
        assert metrics.predictions(half + np.array([0, 1e-8]), np.eye(2)).tolist() == [0]
        assert metrics.predictions(half + np.array([0, 1e-3]), np.eye(2)).tolist() == [1]

    @given(SEEDS)
    def test_the_order_of_items_does_not_matter(self, seed):
        rng = np.random.default_rng(seed)
        images, classes, truth = unit(40, seed=seed), unit(4, seed=seed + 1), rng.integers(0, 4, 40)
        order = rng.permutation(40)
        found = metrics.predictions(images, classes)
        assert metrics.predictions(images[order], classes).tolist() == found[order].tolist()
        assert metrics.accuracy_by(found[order], truth[order], truth[order]) == pytest.approx(
            metrics.accuracy_by(found, truth, truth)
        )

    @pytest.mark.parametrize(("left", "right"), [([], []), ([1, 2], [1]), ([[1]], [[1]])])
    def test_what_is_no_pair_is_refused(self, left, right):
        with pytest.raises(InputError):
            metrics.accuracy(left, right)

    def test_embeddings_of_different_sizes_are_refused(self):
        with pytest.raises(InputError):
            metrics.predictions(unit(3, 4), unit(2, 5))


class TestRanks:
    def test_known_ranks(self):
        queries, pool = np.eye(3), np.eye(3)
        assert metrics.ranks(queries, pool, [0, 1, 2]).tolist() == [0, 0, 0]
        # The right answer scores 0, one wrong one scores 1, the other ties.
        assert metrics.ranks(queries, pool, [1, 2, 0]).tolist() == [2, 2, 2]

    def test_a_model_that_gives_everything_one_embedding_finds_nothing(self):
        same = np.tile(unit(1), (20, 1))
        found = metrics.ranks(same, same, np.arange(20))
        assert metrics.recall_at(found, 10) == 0.0
        assert metrics.recall_at(found, 20) == 1.0

    def test_any_right_answer_will_do_and_does_not_count_against_another(self):
        pool = np.array([[1.0, 0], [1.0, 0], [0, 1.0]])
        assert metrics.ranks(pool[:1], pool, [[0, 1]]).tolist() == [0]
        assert metrics.ranks(pool[:1], pool, [[0]]).tolist() == [1]  # the control: now the twin is a wrong answer
        assert metrics.ranks(pool[:1], pool, [[2, 1]]).tolist() == [1]

    @given(SEEDS)
    def test_neither_the_order_of_queries_nor_that_of_the_pool_matters(self, seed):
        rng = np.random.default_rng(seed)
        queries, pool, right = unit(30, seed=seed), unit(50, seed=seed + 1), rng.integers(0, 50, 30)
        found = metrics.ranks(queries, pool, right)
        order, shuffle = rng.permutation(30), rng.permutation(50)
        assert metrics.ranks(queries[order], pool[shuffle], np.argsort(shuffle)[right[order]]).tolist() == (
            found[order].tolist()
        )

    @given(SEEDS)
    def test_recall_grows_with_k_and_reaches_one(self, seed):
        found = metrics.ranks(unit(20, seed=seed), unit(25, seed=seed + 1), np.arange(20))
        recalls = [metrics.recall_at(found, k) for k in range(1, 26)]
        assert recalls == sorted(recalls)
        assert recalls[-1] == 1.0

    def test_more_queries_than_one_block(self):
        pool = unit(metrics.ROWS + 40)
        assert metrics.ranks(pool, pool, np.arange(len(pool))).max() == 0

    @pytest.mark.parametrize("right", [[0, 1], [0, 1, 9], [0, 1, -1], [[0], [1], []]])
    def test_a_query_without_a_right_answer_is_refused(self, right):
        with pytest.raises(InputError):
            metrics.ranks(unit(3), unit(4), right)


class TestDrift:
    def test_known_drifts(self):
        base = np.array([[1.0, 0], [1.0, 0], [1.0, 0]])
        other = np.array([[2.0, 0], [0, 1.0], [-1.0, 0]])
        assert metrics.drift(base, other) == pytest.approx([0, 1, 2])

    def test_small_drifts_are_not_lost_to_rounding(self):
        angle = 1e-9
        found = metrics.drift([[1.0, 0]], [[np.cos(angle), np.sin(angle)]])
        assert found[0] == pytest.approx(angle**2 / 2)
        assert 1 - np.cos(angle) == 0  # the control: the plain formula loses it

    def test_the_summary(self):
        assert metrics.drift_summary(np.arange(101) / 100) == pytest.approx(
            {"mean": 0.5, "95th percentile": 0.95, "maximum": 1.0}
        )

    @pytest.mark.parametrize(("base", "other"), [(unit(3), unit(4)), ([[0.0, 0]], [[1.0, 0]])])
    def test_what_has_no_drift_is_refused(self, base, other):
        with pytest.raises(InputError):
            metrics.drift(base, other)


def outcomes(*shares: float, count: int = 400, seed: int = 0) -> np.ndarray:
    """Right and wrong answers of variants that are right with given probabilities."""
    return np.random.default_rng(seed).random((len(shares), count)) < np.array(shares)[:, None]


def gap(values: np.ndarray, strata=None, **options) -> tuple[float, float]:
    means = stratum_means(values, strata, **options)
    return interval(means[:, :, 1].mean(axis=1) - means[:, :, 0].mean(axis=1))


class TestBootstrap:
    def test_a_variant_does_not_differ_from_itself(self):
        own = outcomes(0.7)
        assert gap(np.vstack([own, own])) == (0.0, 0.0)

    def test_a_strong_difference_excludes_zero_and_none_covers_it(self):
        low, high = gap(outcomes(0.5, 0.8))
        assert 0 < low < 0.3 < high < 0.45
        low, high = gap(outcomes(0.6, 0.6, seed=5))
        assert low < 0 < high

    @given(SEEDS)
    def test_the_order_of_items_changes_no_bit(self, seed):
        values, strata = outcomes(0.4, 0.6, seed=seed, count=60), np.arange(60) % 3
        order = np.random.default_rng(seed).permutation(60)
        first = stratum_means(values, strata, resamples=100, seed=1)
        assert (first == stratum_means(values[:, order], strata[order], resamples=100, seed=1)).all()

    def test_the_same_seed_gives_the_same_bits_and_another_does_not(self):
        values = outcomes(0.4, 0.6)
        first = stratum_means(values, resamples=100, seed=3, salt="a")
        assert (first == stratum_means(values, resamples=100, seed=3, salt="a")).all()
        assert not (first == stratum_means(values, resamples=100, seed=4, salt="a")).all()
        assert not (first == stratum_means(values, resamples=100, seed=3, salt="b")).all()

    @pytest.mark.parametrize(("variants", "items"), [(1, 7), (2, 50), (3, 131), (1, 1000)])
    def test_blocks_change_no_bit(self, monkeypatch, variants, items):
        # Outcomes with all digits: sums of them depend on the order of additions.
        values = np.random.default_rng(0).random((variants, items))
        first = stratum_means(values, resamples=300)
        for block in (1, 137, 5 * items, 7 * items + 3):
            monkeypatch.setattr("sith_hf.evaluation.bootstrap.BLOCK", block)
            assert (first == stratum_means(values, resamples=300)).all()

    def test_it_is_the_bootstrap_of_textbooks(self):
        # Against drawing indices: the same spread of a difference of means, and the known standard error.
        values = outcomes(0.5, 0.7, count=300)
        drawn = stratum_means(values, resamples=4000)[:, 0]
        rng = np.random.default_rng(9)
        literal = values[:, rng.integers(0, 300, (4000, 300))].mean(axis=-1)
        ours, theirs = drawn[:, 1] - drawn[:, 0], literal[1] - literal[0]
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.003)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.08)

    def test_pairing_narrows_the_interval(self):
        # Right on nearly the same items: unpaired, the noise of both would count.
        base = outcomes(0.5)[0]
        edited = base.copy()
        edited[np.flatnonzero(~base)[:20]] = True
        shuffled = np.random.default_rng(1).permutation(edited)
        narrow, wide = gap(np.vstack([base, edited])), gap(np.vstack([base, shuffled]))
        assert narrow[0] > 0
        assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2

    def test_strata_keep_their_sizes(self):
        # A stratum where all is right keeps its mean of one in every resample.
        values = np.array([[True] * 5 + [True, False] * 10])
        drawn = stratum_means(values, [0] * 5 + [1] * 20, resamples=200)
        assert (drawn[:, 0] == 1).all()
        assert drawn[:, 1].std() > 0

    def test_the_worst_group_is_found_anew_in_each_resample(self):
        values = np.vstack([outcomes(0.5, count=200)[0]] * 2)
        drawn = stratum_means(values, np.arange(200) % 2)
        assert len(set(drawn.argmin(axis=1)[:, 0])) == 2

    def test_coverage(self):
        # 95 % intervals of a true difference of 0.2 hold it about 95 times in 100.
        held = 0
        for seed in range(200):
            low, high = gap(outcomes(0.4, 0.6, count=150, seed=seed), resamples=300, seed=seed)
            held += low <= 0.2 <= high
        assert 0.88 <= held / 200 <= 0.99

    @pytest.mark.parametrize(
        ("values", "strata"),
        [([[]], None), ([[1.0, np.nan]], None), ([1.0, 2.0], None), ([[1, 0]], [0]), ([[1, 0]], [0, 2])],
    )
    def test_what_cannot_be_resampled_is_refused(self, values, strata):
        with pytest.raises(InputError):
            stratum_means(values, strata)


class TestCompared:
    def test_differences_to_the_base_and_of_the_edit_to_every_other(self):
        names = ("base", "edited", "random-1", "heads")
        values = np.array([0.5, 0.8, 0.55, 0.6])
        data = TaskData(None, names, None, 100, 0, False)
        measure = data.metric("accuracy", None, values, np.tile(values, (10, 1)), 40)
        found = {(d.of, d.to): d.value for d in measure.differences}
        assert found == pytest.approx(
            {
                ("edited", "base"): 0.3,
                ("random-1", "base"): 0.05,
                ("heads", "base"): 0.1,
                ("edited", "random-1"): 0.25,
                ("edited", "heads"): 0.2,
            }
        )
        assert all(d.sure for d in measure.differences)
        assert not any(d.sure for d in data.metric("maximum", None, values, None, 40).differences)
