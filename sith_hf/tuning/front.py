"""The Pareto front of the trials, and the point that is chosen from it."""

from __future__ import annotations

from collections.abc import Sequence

from sith_hf.errors import InputError
from sith_hf.tuning.search import Trial


def pareto_front(trials: Sequence[Trial], lowest: tuple[bool, bool]) -> list[Trial]:
    """Return the trials that no other beats, by target: better in one figure, and in the other at least as good.

    Of trials with equal figures the one with the fewest vectors counts, then the first.

    Args:
        trials: measured edits.
        lowest: whether low values of target and collateral are wanted.
    """
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (*_wanted(trial, lowest), len(trial.gains), trial.number)):
        # By target from the best: a trial is on the front if its collateral is better than all before.
        if not best or _wanted(trial, lowest)[1] < _wanted(best[-1], lowest)[1]:
            best.append(trial)
    return best


def chosen_point(front: Sequence[Trial], base: float, lowest: tuple[bool, bool], limit: float) -> Trial:
    """Return the trial of a front with the best target whose collateral is at most ``limit`` worse than the base's.

    Raises:
        InputError: there is none.
    """
    sign = 1 if lowest[1] else -1
    for trial in front:
        # Rounding must not exclude a loss of exactly the limit.
        if trial.gains and sign * (trial.collateral - base) <= limit + 1e-9:
            return trial
    found = ", ".join(f"{trial.collateral:.4g}" for trial in front)
    raise InputError(
        f"no trial keeps the collateral within {limit:g} of the base's {base:.4g} (the front has {found}): raise "
        "tune.collateral.limit, or the number of trials; finished trials are kept"
    )


def _wanted(trial: Trial, lowest: tuple[bool, bool]) -> tuple[float, float]:
    """Return both figures, lower is better."""
    return tuple(v if low else -v for v, low in zip((trial.target, trial.collateral), lowest, strict=True))  # type: ignore[return-value]
