"""The Pareto front against brute force, and the chosen point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sith_hf.errors import InputError
from sith_hf.tuning.front import chosen_point, pareto_front
from sith_hf.tuning.search import Trial


def trials(seed: int, count: int = 30) -> list[Trial]:
    """Trials with figures on a coarse grid, so that many are equal."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        target, collateral = (rng.integers(0, 8, size=2) / 8).tolist()
        gains = {(0, 0, i): 0.0 for i in range(int(rng.integers(1, 4)))}
        found.append(Trial(number, {}, gains, target, collateral))
    return found


def better(value: float, other: float, lowest: bool) -> bool:
    return value < other if lowest else value > other


@pytest.mark.parametrize("lowest", list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("seed", range(10))
def test_the_front_is_that_of_brute_force(seed: int, lowest: tuple[bool, bool]) -> None:
    made = trials(seed)

    def figures(trial: Trial) -> tuple[float, float]:
        return trial.target, trial.collateral

    def beaten(trial: Trial) -> bool:
        return any(
            all(
                not better(own, theirs, low)
                for own, theirs, low in zip(figures(trial), figures(o), lowest, strict=True)
            )
            and figures(o) != figures(trial)
            for o in made
        )

    front = pareto_front(made, lowest)
    assert {figures(trial) for trial in front} == {figures(trial) for trial in made if not beaten(trial)}
    assert len({figures(trial) for trial in front}) == len(front)
    for trial in front:
        equal = [other for other in made if figures(other) == figures(trial)]
        assert len(trial.gains) == min(len(other.gains) for other in equal)


def test_the_best_target_within_the_limit_is_chosen() -> None:
    gains = {(0, 0, 0): 0.0}
    front = [Trial(i, {}, gains, target, cost) for i, (target, cost) in enumerate([(0.9, 0.5), (0.8, 0.7), (0.1, 1.0)])]
    lowest = (False, False)
    assert chosen_point(front, 1.0, lowest, 0.5).number == 0
    assert chosen_point(front, 1.0, lowest, 0.3).number == 1
    assert chosen_point(front, 1.0, lowest, 0.29).number == 2
    with pytest.raises(InputError, match=r"no trial keeps the collateral within 0.1 of the base's 1 .*tune.collateral"):
        chosen_point(front[:2], 1.0, lowest, 0.1)


def test_an_edit_of_no_vector_is_never_chosen() -> None:
    with pytest.raises(InputError, match="no trial"):
        chosen_point([Trial(0, {}, {}, 0.9, 0.0)], 0.0, (False, True), 1.0)
