"""The measured results that a card states: their form as plain data, and the rows of its tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from sith_hf.core.escaping import impersonal, sanitize
from sith_hf.core.settings import Settings

# The most baselines of a result.
MOST_BASELINES = 8


class MeasuredResult(Settings):
    """One measured result."""

    dataset: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    base: float
    edited: float
    split: str | None = None
    samples: int | None = Field(default=None, ge=0)
    interval: tuple[float, float] | None = None
    """The 95 % interval of ``edited - base``, lower end first."""
    parts: dict[str, float] = Field(default_factory=dict, max_length=4)
    """The values with a part of the edit, such as "vision only"."""
    baselines: dict[str, float] = Field(default_factory=dict, max_length=MOST_BASELINES)
    """The values with edits to compare with, such as "random vectors"."""


class SweepPoint(Settings):
    """Worst group and average of an edit at one strength."""

    contender: str = Field(min_length=1)
    setting: float
    vectors: int = Field(ge=0)
    worst: float
    average: float


class MeasuredSweep(Settings):
    """An edit and its baselines at several strengths (:class:`sith_hf.evaluation.Sweep`)."""

    over: str = Field(min_length=1)
    base: dict[Literal["worst", "average"], float] = Field(min_length=2)
    points: tuple[SweepPoint, ...] = Field(max_length=1000)


class Results(Settings):
    """The results of an evaluation: on the task of the edit, and side effects."""

    results: tuple[MeasuredResult, ...] | None = None
    collateral: tuple[MeasuredResult, ...] | None = None
    sweep: MeasuredSweep | None = None


def measured_rows(evaluation: Mapping[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """Return the table rows of ``results``, ``collateral`` and ``sweep``; their texts are sanitized.

    Args:
        evaluation: plain data of the form of :class:`Results`; None if nothing was measured.

    Raises:
        InputError: the evaluation has another form.
    """
    found = Results.from_data({} if evaluation is None else evaluation, "the evaluation for the card").model_dump()
    sweep = found.pop("sweep")
    rows: dict[str, list[dict[str, Any]]] = {name: list(items or ()) for name, items in found.items()}
    for row in (*rows["results"], *rows["collateral"]):
        row.update({name: sanitize(impersonal(row[name] or "")) for name in ("dataset", "metric", "split")})
        for name in ("parts", "baselines"):
            row[name] = {sanitize(impersonal(text)): value for text, value in row[name].items()}
    return rows | {"sweep": [] if sweep is None else _sweep_rows(sweep)}


def by_data(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return tables of rows of :func:`measured_rows`, one for each data set: ``dataset, split, columns, rows``.

    ``columns`` are the names of parts of the edit and of baselines, whose values are the ``figures`` of a row.
    """
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["dataset"], row["split"]
        table = tables.setdefault(key, {"dataset": key[0], "split": key[1], "columns": [], "rows": []})
        values = {**row["parts"], **row["baselines"]}
        table["columns"] += [name for name in values if name not in table["columns"]]
        table["rows"].append({**row, "figures": values})
    return list(tables.values())


def _sweep_rows(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the base, and the mean of the random draws in place of each, as ``contender, setting, worst, average``."""
    grouped: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for point in sweep["points"]:
        name = collapsed_name(sanitize(impersonal(point["contender"])))
        grouped.setdefault((name, point["setting"]), []).append(point)
    rows = [{"contender": "base", "setting": None, **sweep["base"]}]
    for (name, setting), points in grouped.items():
        means = {figure: sum(point[figure] for point in points) / len(points) for figure in ("worst", "average")}
        rows.append({"contender": name, "setting": setting, **means})
    return rows


RANDOM = "random vectors"
"""The name of the mean over edits of random vectors."""


def collapsed_name(variant: str) -> str:
    """Return ``RANDOM`` for one of several draws of random vectors, such as ``random 2``; other names unchanged."""
    return RANDOM if re.fullmatch(r"random \d+", variant) else variant
