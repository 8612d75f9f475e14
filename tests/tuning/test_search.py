"""The trials: the same after any interruption, for any number of processes, and of one search only."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sith_hf.core.distributed import SINGLE, Processes
from sith_hf.errors import InputError
from sith_hf.recipe import TuneStep
from sith_hf.tuning.search import ROUND, Space, Trial, search

KEYS = [(1, 0, i) for i in range(6)]
SPACE = Space(((1,), (0, 1)), (0.0, 0.3), (0.0, 0.5), (0.5, 2.0), 5)
COUNT = 20
FACTS = {"what": "a test"}


def choose(point: Mapping[str, Any]) -> dict[tuple[int, int, int], float]:
    return dict.fromkeys(KEYS[: point["vectors"]], 1 - point["strength"])


def measure(gains: Mapping[tuple[int, int, int], float]) -> tuple[float, float]:
    removed = sum(1 - gain for gain in gains.values())
    return removed - removed**2 / 20, removed


def searched(file: Path | None, trials: int, sampler: str = "tpe", processes: Processes = SINGLE, **other: Any) -> Any:
    step = TuneStep.from_data({"target": {"concepts": ["a"]}, "trials": trials, "sampler": sampler}, "here")
    given = {"choose": choose, "measure": measure, "facts": FACTS, **other}
    return search(step, SPACE, (False, True), file=file, processes=processes, say=lambda line: None, **given)


def plain(trials: list[Trial]) -> list[Any]:
    return [(t.number, dict(t.point), dict(t.gains), t.target, t.collateral) for t in trials]


@pytest.fixture(scope="module", params=["tpe", "nsga-ii"])
def whole(request: pytest.FixtureRequest) -> tuple[str, list[Any]]:
    return request.param, plain(searched(None, COUNT, request.param))


class Stopped(BaseException):
    """Not an error that anything handles."""


@pytest.mark.parametrize("moment", [0, 9, 18])
def test_an_interrupted_search_finds_the_same(whole: tuple[str, list[Any]], moment: int, tmp_path: Path) -> None:
    sampler, expected = whole
    seen = []

    def counted(gains: Any) -> tuple[float, float]:
        seen.append(gains)
        if len(seen) == moment + 1:
            raise Stopped
        return measure(gains)

    file = tmp_path / "t" / "trials.db"
    with pytest.raises(Stopped):
        searched(file, COUNT, sampler, measure=counted)
    assert plain(searched(file, COUNT, sampler, measure=counted)) == expected
    # Every trial was measured once, but the one that was interrupted.
    assert len(seen) == COUNT + 1


def test_more_trials_continue(whole: tuple[str, list[Any]], tmp_path: Path) -> None:
    sampler, expected = whole
    file = tmp_path / "trials.db"
    assert plain(searched(file, 11, sampler)) == expected[:11]
    assert plain(searched(file, COUNT, sampler)) == expected
    assert plain(searched(file, 15, sampler)) == expected[:15]


def test_another_seed_finds_others(whole: tuple[str, list[Any]]) -> None:
    sampler, expected = whole
    step = TuneStep.from_data({"target": {"concepts": ["a"]}, "trials": COUNT, "sampler": sampler, "seed": 1}, "here")
    found = search(
        step, SPACE, (False, True), choose, measure, file=None, facts=FACTS, processes=SINGLE, say=lambda line: None
    )
    assert plain(found)[:ROUND] == expected[:ROUND]  # the points to begin with
    assert plain(found)[ROUND:] != expected[ROUND:]


def test_the_points_differ(whole: tuple[str, list[Any]]) -> None:
    _, trials = whole
    assert len({tuple(sorted(t[1].items(), key=str)) for t in trials}) > COUNT // 2


@dataclass(frozen=True)
class Threads(Processes):
    """Processes of a job as threads."""

    shared: dict[str, Any] = field(default_factory=dict)

    def all_gather(self, do: Any) -> list[Any]:
        results = self.shared["results"]
        results[self.rank] = do()
        self.shared["barrier"].wait(20)
        found = [results[rank] for rank in range(self.world_size)]
        self.shared["barrier"].wait(20)
        return found


@pytest.mark.parametrize("count", [3])
def test_any_number_of_processes_finds_the_same(whole: tuple[str, list[Any]], count: int, tmp_path: Path) -> None:
    sampler, expected = whole
    shared = {"results": {}, "barrier": threading.Barrier(count)}
    found: dict[int, Any] = {}

    def one(rank: int) -> None:
        file = tmp_path / "trials.db"
        found[rank] = plain(searched(file, COUNT, sampler, Threads(count, rank, shared)))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(count), expected)


def test_trials_of_another_search_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "trials.db"
    searched(file, 2)
    with pytest.raises(InputError, match="has trials of another search"):
        searched(file, 2, facts={"what": "another"})


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trials.db"
    file.write_bytes(b"nothing of the kind" * 1000)
    with pytest.raises(InputError, match="cannot be read as trials"):
        searched(file, 2)


@pytest.mark.parametrize("name", ["a?b%20c", "a b#c", "ä&=+"])
def test_a_path_may_have_any_characters(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "trials.db"
    searched(file, 2)
    assert file.is_file()
    assert len(searched(file, 3)) == 3


def test_what_has_one_value_is_not_varied() -> None:
    space = Space(((1,),), (0.0,), (0.2, 0.2), (1.0, 1.0), 4)
    assert list(space.distributions()) == ["vectors"]
    point = {"layers": (1,), "trade": 0.0, "threshold": 0.2, "strength": 1.0, "vectors": 3}
    assert space.point({"vectors": 3}) == point
    assert space.first() == [{"vectors": 4}, {"vectors": 2}]
