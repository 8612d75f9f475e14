"""The trials: Optuna proposes points, each is measured and kept in an SQLite file as soon as it is known.

A trial depends on its number, the seed and the trials of earlier rounds only. So a search that was interrupted at any
moment, or whose trials several processes share, finds the same as one that was not.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sith_hf.core.distributed import Processes
from sith_hf.errors import InputError, MissingExtra, OutputError
from sith_hf.gains import VectorKey
from sith_hf.recipe import TuneStep

# Trials of a round do not know of each other.
ROUND = 8
# Trials at points of chance before the sampler learns; also the population of nsga-ii.
STARTING = 16

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """What a search varies.

    Attributes:
        layers: sets of layers.
        trades: weights of the collateral in the ranking.
        thresholds, strengths: ranges.
        most: the largest number of vectors.
    """

    layers: tuple[tuple[int, ...], ...]
    trades: tuple[float, ...]
    thresholds: tuple[float, float]
    strengths: tuple[float, float]
    most: int

    def distributions(self) -> dict[str, Any]:
        """Return Optuna's distributions by name; what has one value only is left out."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, Any] = {"vectors": IntDistribution(1, self.most)}
        for name, values in (("layers", self.layers), ("trade", self.trades)):
            if len(values) > 1:
                found[name] = CategoricalDistribution(range(len(values)))
        for name, (low, high) in (("threshold", self.thresholds), ("strength", self.strengths)):
            if low < high:
                found[name] = FloatDistribution(low, high)
        return found

    def point(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a trial by name."""
        return {
            "layers": self.layers[params.get("layers", 0)],
            "trade": self.trades[params.get("trade", 0)],
            "threshold": params.get("threshold", self.thresholds[0]),
            "strength": params.get("strength", self.strengths[0]),
            "vectors": params["vectors"],
        }

    def first(self) -> list[dict[str, Any]]:
        """Return points to begin with: the recipe's own strength, for each ranking, with many and few vectors."""
        low, high = self.strengths
        fixed = {"threshold": self.thresholds[0], "strength": min(max(1.0, low), high)}
        names = self.distributions()
        points = [
            {"layers": layer, "trade": trade, "vectors": vectors, **fixed}
            for vectors in dict.fromkeys((self.most, max(1, self.most // 2)))
            for layer in reversed(range(len(self.layers)))
            for trade in range(len(self.trades))
        ]
        return [{name: point[name] for name in names} for point in points[:ROUND]]


@dataclass(frozen=True)
class Trial:
    """One measured edit.

    Attributes:
        number: from 0.
        point: layers, trade, threshold, strength and vectors as proposed.
        gains: the chosen vectors.
        target, collateral: the measured figures.
    """

    number: int
    point: Mapping[str, Any]
    gains: Mapping[VectorKey, float]
    target: float
    collateral: float


def search(
    step: TuneStep,
    space: Space,
    lowest: tuple[bool, bool],
    choose: Callable[[Point], Mapping[VectorKey, float]],
    measure: Callable[[Mapping[VectorKey, float]], tuple[float, float]],
    file: Path | None,
    facts: Mapping[str, Any],
    processes: Processes,
    say: Callable[[str], object],
) -> list[Trial]:
    """Return all trials, those kept in ``file`` first.

    Args:
        step: seed, sampler and number of trials.
        space: what varies.
        lowest: whether low values of target and collateral are wanted.
        choose: from a point to gains.
        measure: from gains to target and collateral.
        file: the SQLite file; a study in memory when None.
        facts: everything that the trials depend on.
        processes: share the trials of each round; the main process writes.
        say: called with a line after each round.

    Raises:
        OutputError: a trial could not be kept.
        MissingExtra: Optuna is not installed.
        InputError: the file has trials of another search.
    """
    quiet()
    distributions, first = space.distributions(), space.first()
    with ExitStack() as held:
        study = processes.main_only(lambda: held.enter_context(_study(file, lowest, facts)))
        done: list[_Kept] = processes.on_main(lambda: _kept(study))[: step.trials]
        while len(done) < step.trials:
            # Trials of the last whole rounds; a round that was interrupted is finished as it was begun.
            start = len(done) // ROUND * ROUND
            number, end = len(done) + processes.rank, min(start + ROUND, step.trials)

            def mine(number: int = number, end: int = end, before: Sequence[_Kept] = done[:start]) -> _Kept | None:
                if number >= end:
                    return None
                params, notes = _propose(step, lowest, distributions, first, before, number)
                return _Kept(params, notes, measure(choose(space.point(params))))

            made = [item for item in processes.all_gather(mine) if item is not None]
            processes.on_main(partial(_add, study, distributions, made))
            done = [*done, *made]
            if len(done) % ROUND == 0 or len(done) == step.trials:
                say(f"{len(done)} of {step.trials} trials")
    found = []
    for number, kept in enumerate(done):
        point = space.point(kept.params)
        found.append(Trial(number, point, choose(point), *kept.values))
    return found


@dataclass(frozen=True)
class _Kept:
    """A trial as it is kept: parameters, the sampler's notes, values."""

    params: dict[str, Any]
    notes: dict[str, Any]
    values: tuple[float, float]


def quiet() -> None:
    """Silence Optuna's log, and check that it is installed. Raises MissingExtra."""
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _propose(
    step: TuneStep,
    lowest: tuple[bool, bool],
    distributions: Mapping[str, Any],
    first: Sequence[dict[str, Any]],
    before: Sequence[_Kept],
    number: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters of a trial, and the sampler's notes on it, from the trials of earlier rounds."""
    if number < len(first):
        return first[number], {}
    import optuna

    # A sampler of its own for each trial: its state is the seed and the trials before, both known after a restart.
    seed = step.seed * 1_000_003 % 2**31 + number
    sampler: Any = (
        optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=STARTING)
        if step.sampler == "tpe"
        else optuna.samplers.NSGAIISampler(seed=seed % 2**32, population_size=STARTING)
    )
    study = optuna.create_study(directions=_directions(lowest), sampler=sampler)
    study.add_trials([_frozen(distributions, item) for item in before])
    trial = study.ask(dict(distributions))
    (asked,) = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    return dict(trial.params), dict(asked.system_attrs)


def _frozen(distributions: Mapping[str, Any], item: _Kept) -> Any:
    import optuna

    return optuna.trial.create_trial(
        params=item.params,
        distributions=dict(distributions),
        values=list(item.values),
        system_attrs=item.notes,
    )


def _directions(lowest: tuple[bool, bool]) -> list[str]:
    return ["minimize" if each else "maximize" for each in lowest]


@contextmanager
def _study(file: Path | None, lowest: tuple[bool, bool], facts: Mapping[str, Any]) -> Iterator[Any]:
    """Open the study of a search. Raises InputError for a file of another search, or of something else."""
    import optuna

    if file is None:
        yield optuna.create_study(directions=_directions(lowest))
        return
    study, storage = _opened(file, lowest, json.dumps(facts, sort_keys=True))
    try:
        yield study
    finally:
        storage.engine.dispose()


def _opened(file: Path, lowest: tuple[bool, bool], facts: str) -> tuple[Any, Any]:
    """Return the study in a file, and its storage. Raises InputError for a file that has none of this search."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    file.parent.mkdir(exist_ok=True)
    # A connection of our own: a path may have characters that mean something in a URL.
    connect = {"creator": lambda: sqlite3.connect(file, check_same_thread=False)}
    try:
        storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs=connect)
        directions = _directions(lowest)
        study = optuna.create_study(study_name="tune", storage=storage, directions=directions, load_if_exists=True)
        known = study.user_attrs.get("facts", facts)
        study.set_user_attr("facts", known)
    except (SQLAlchemyError, sqlite3.Error, ValueError, RuntimeError) as error:
        raise InputError(
            f"{file} cannot be read as trials ({type(error).__name__}): delete it to begin again"
        ) from None
    if known != facts:
        storage.engine.dispose()
        raise InputError(f"{file} has trials of another search: delete it to begin again")
    return study, storage


def _kept(study: Any) -> list[_Kept]:
    return [
        _Kept(dict(trial.params), dict(trial.system_attrs), (float(trial.values[0]), float(trial.values[1])))
        for trial in study.get_trials()
    ]


def _add(study: Any, distributions: Mapping[str, Any], items: Sequence[_Kept]) -> None:
    """Keep trials; each is there whole, or not at all. Raises OutputError."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        for item in items:
            study.add_trial(_frozen(distributions, item))
    except SQLAlchemyError as error:
        raise OutputError(f"a trial could not be kept ({type(error).__name__}): free space and run again") from None
