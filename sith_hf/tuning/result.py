"""``TuneResult``: the front, the chosen point, and what it does on the reported data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.core.formatting import counted
from sith_hf.core.reading import read_text
from sith_hf.core.short_repr import short_repr
from sith_hf.core.tables import table
from sith_hf.evaluation import Evaluation
from sith_hf.recipe import RECIPE, file_sha256
from sith_hf.tuning.search import Trial

RESULT, TRIALS, TESTED, CHART = "tune.json", "trials.db", "results.json", "pareto.png"


@short_repr
@dataclass(frozen=True, eq=False)
class TuneResult:
    """The results of a search.

    Attributes:
        folder: the folder with ``recipe.yaml`` (the chosen edit), ``tune.json``, ``trials.db``, ``pareto.png`` and, of
            a recipe with ``evaluate``, ``results.json``.
        record: plain data about the search: target, collateral, validation data, front and chosen point.
        evaluation: the chosen edit on the data that the recipe reports; None if it has none.
    """

    folder: Path
    record: Mapping[str, Any]
    evaluation: Evaluation | None = field(repr=False)

    @property
    def gains(self) -> dict[tuple[int, int, int], float]:
        """The chosen vectors, (layer, head, vector), with their gains."""
        return {(layer, head, vector): gain for layer, head, vector, gain in self.record["chosen"]["gains"]}

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        tested = None if self.evaluation is None else self.evaluation.to_json()
        places = {"folder": str(self.folder), "recipe": str(self.folder / RECIPE)}
        return {**places, **self.record, "evaluation": tested}

    def table(self) -> str:
        """Return the front as text, the chosen point marked."""
        record, chosen = self.record, self.record["chosen"]["trial"]
        titles = [sanitize(record[key]["title"], 60) for key in ("target", "collateral")]
        rows: list[list[object]] = [["base", *(f"{record[key]['base']:.4g}" for key in ("target", "collateral")), 0]]
        rows += [
            [
                f"{point['trial']}{' *' if point['trial'] == chosen else ''}",
                f"{point['target']:.4g}",
                f"{point['collateral']:.4g}",
                len(point["gains"]),
                ", ".join(map(str, point["layers"])),
                f"{point['threshold']:.2f}",
                f"{point['strength']:.2f}",
                f"{point['trade']:g}",
            ]
            for point in record["front"]
        ]
        rows = [[*row, *[""] * (8 - len(row))] for row in rows]
        head = ["trial", *titles, "vectors", "layers", "threshold", "strength", "trade"]
        return table(head, rows, "On validation data; * is the chosen point")

    def answer(self) -> str:
        """Return in one sentence what the chosen edit does on validation data."""
        chosen, figures = self.record["chosen"], []
        for key in ("target", "collateral"):
            title = sanitize(self.record[key]["title"], 60)
            figures.append(f"{title} {self.record[key]['base']:.3g} → {chosen[key]:.3g}")
        vectors = counted(len(chosen["gains"]), "vector")
        tried = counted(self.record["trials"], "trial")
        return f"{figures[0]} with {vectors}, {figures[1]} (validation data, the best of {tried})"

    def __str__(self) -> str:
        lines = [self.table(), f"{self.record['trials']} trials looked at validation data."]
        if self.evaluation is not None:
            lines[-1] += " The data below were looked at once, at the end:"
            lines.append(self.evaluation.table())
        return "\n".join([*lines, f"{self.folder / RECIPE} (write the edit with sith-hf run)"])


def point_of(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain data."""
    point = trial.point
    return {
        "trial": trial.number,
        "target": trial.target,
        "collateral": trial.collateral,
        "layers": list(point["layers"]),
        "trade": point["trade"],
        "threshold": point["threshold"],
        "strength": point["strength"],
        "gains": [[*key, gain] for key, gain in sorted(trial.gains.items())],
    }


def finished_search(folder: Path, request: str) -> TuneResult | None:
    """Return the results of this request in ``folder``; None without them, or if a file was changed since."""
    try:
        data = json.loads(read_text(folder / RESULT))
        if data.pop("request") != request:
            return None
        if any(file_sha256(folder / name) != sha256 for name, sha256 in data.pop("files").items()):
            return None
        tested = folder / TESTED
        return TuneResult(folder, data, Evaluation.from_file(tested) if tested.is_file() else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def draw(record: Mapping[str, Any], trials: Sequence[Trial], path: Path) -> Path:
    """Draw all trials, the front and the chosen point: target (y) against collateral (x); return the file's path.

    Raises:
        MissingExtra: matplotlib is not installed.
        OutputError: the file could not be written.
    """
    from sith_hf.tuning.chart import draw_front

    return draw_front(
        [(trial.collateral, trial.target) for trial in trials],
        [(point["collateral"], point["target"], str(len(point["gains"]))) for point in record["front"]],
        (record["collateral"]["base"], record["target"]["base"]),
        (record["chosen"]["collateral"], record["chosen"]["target"]),
        path,
        labels=(record["collateral"]["title"], record["target"]["title"]),
    )
