"""``FidelityTable``: fidelity and coherence of methods and sparsities, each compared with chance."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.formatting import count, counted
from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition import Quality, smallest_p
from sith_hf.pursuit import Pursuit

FEWEST_OF_HEAD = 32
"""The fewest draws of each head that tell its level and spread, so that the shape is pooled over heads."""

WEIGHTS = ("equal", "energy")


@short_repr
@dataclass(frozen=True, eq=False)
class MethodQuality:
    """One method at one sparsity.

    Attributes:
        pursuit: the method and its settings.
        fidelity, coherence: ``[L, H, R, poles]`` float32.
        null: the same for random directions, ``[N]`` or ``[L, H, N]``; None without a null.
        p, q: ``[L, H, R, poles]`` float64, p-values of fidelities, and their Benjamini-Hochberg adjustment over all
            vectors and poles of this method and sparsity; None without a null.
    """

    pursuit: Pursuit
    fidelity: Tensor
    coherence: Tensor
    null: Quality | None
    p: Tensor | None
    q: Tensor | None

    @property
    def settings(self) -> dict[str, Any]:
        """Method, coherence weight (None if the method has none) and sparsity, as plain data."""
        weight = self.pursuit.coherence_weight if self.pursuit.method == "comp" else None
        return {"method": self.pursuit.method, "coherence_weight": weight, "sparsity": self.pursuit.sparsity}

    @property
    def name(self) -> str:
        """The method, with its coherence weight, such as ``comp 0.3`` or ``omp``."""
        return f"comp {self.pursuit.coherence_weight:g}" if self.pursuit.method == "comp" else self.pursuit.method


@short_repr
@dataclass(frozen=True, eq=False)
class FidelityTable:
    """Fidelity and coherence over methods and sparsities.

    Attributes:
        results: one for each method and sparsity, in order.
        layers: the L layer numbers.
        poles: ``("+", "-")`` or ``("+",)``.
        ceiling: ``[L, H, R]`` float32, the maximum fidelity of each vector.
        share: ``[L, H, R]`` float32, each vector's s^2 over its head's.
        weight: of vectors in means and spreads. ``"equal"``: all the same; ``"energy"``: by ``share``, so that all
            heads count the same. Counts of findings are never weighted.
        null: ``"residual"``, ``"head"`` or None (see :mod:`sith_hf.decomposition.significance`).
        null_ceiling: ``[N]`` or ``[L, H, N]``, the ceiling of the random directions; None without a null.
        draws: N random directions (per head for ``"head"``); 0 without a null.
        seed: of the random directions.
        level: the false discovery rate of significant findings.
        concepts: M, the size of the dictionary.
    """

    results: tuple[MethodQuality, ...]
    layers: tuple[int, ...]
    poles: tuple[str, ...]
    ceiling: Tensor
    share: Tensor
    weight: str
    null: str | None
    null_ceiling: Tensor | None
    draws: int
    seed: int
    level: float
    concepts: int

    @property
    def pooled(self) -> bool:
        """Whether the heads share the shape of their nulls (:func:`sith_hf.decomposition.head_p_values`)."""
        return self.null == "head" and self.draws >= FEWEST_OF_HEAD

    @property
    def smallest_p(self) -> float | None:
        """The smallest possible p-value; None without a null."""
        if self.null is None or self.null_ceiling is None:
            return None
        return smallest_p(self.null_ceiling.numel() if self.pooled else self.draws)

    def summary(self, result: MethodQuality) -> dict[str, Any]:
        """Return means and spreads (standard deviations) over vectors and poles for one method and sparsity."""
        weight = (self.share if self.weight == "energy" else torch.ones_like(self.share)).unsqueeze(-1)
        found: dict[str, Any] = dict(result.settings)
        found["fidelity"], found["fidelity_spread"] = _mean(result.fidelity, weight)
        found["relative"], _ = _mean(_relative(result.fidelity, self.ceiling.unsqueeze(-1)), weight)
        found["coherence"], found["coherence_spread"] = _mean(result.coherence, weight)
        if result.null is not None and result.p is not None and result.q is not None and self.null_ceiling is not None:
            chance = result.null.fidelity.double()
            found |= {
                "null_fidelity": float(chance.mean()),
                "null_fidelity_spread": float(chance.std(correction=0)),
                "null_relative": float(_relative(result.null.fidelity, self.null_ceiling).double().mean()),
                "null_coherence": float(result.null.coherence.double().mean()),
                "median_p": float(result.p.median()),
                "significant": int((result.q <= self.level).sum()),
            }
        return found

    def rows(self) -> tuple[list[str], list[list[object]]]:
        """Return columns and rows for :func:`sith_hf.core.tables.table`."""
        columns = ["method", "K", "fidelity", "spread", "of ceiling", "coherence", "spread"]
        if self.null is not None:
            columns += ["null fid.", "null coh.", "median p", f"at q {self.level:g}"]
        rows = []
        for result in self.results:
            s = self.summary(result)
            keys = ("sparsity", "fidelity", "fidelity_spread", "relative", "coherence", "coherence_spread")
            row: list[object] = [result.name, *(s[key] for key in keys)]
            if self.null is not None:
                row += [s["null_fidelity"], s["null_coherence"], s["median_p"], f"{s['significant']}/{self.count}"]
            rows.append(row)
        return columns, rows

    def answer(self) -> str:
        """Return in one sentence which method and sparsity has the highest fidelity, and what chance has."""
        best = max(self.results, key=lambda result: self.summary(result)["fidelity"])
        found = self.summary(best)
        name, most = f"{best.name} with {counted(found['sparsity'], 'concept')}", float(self.ceiling.double().mean())
        said = f"{name} explains best: fidelity {found['fidelity']:.3f} of at most {most:.3f}"
        if self.null is None:
            return said
        beyond = f"{count(found['significant'])} of {counted(self.count, 'explanation')} beyond chance"
        return f"{said}, random directions {found['null_fidelity']:.3f}; {beyond}"

    @property
    def count(self) -> int:
        """The number of vectors times poles of each result."""
        return self.share.numel() * len(self.poles)

    def to_json(self) -> dict[str, Any]:
        """Return the summaries and all settings as plain data."""
        return {
            "layers": list(self.layers),
            "heads": self.share.shape[1],
            "vectors": self.share.shape[2],
            "poles": list(self.poles),
            "explanations": self.count,
            "concepts": self.concepts,
            "ceiling": float(self.ceiling.double().mean()),
            "weight": self.weight,
            "null": self.null,
            "draws": self.draws,
            "smallest_p": self.smallest_p,
            "seed": self.seed,
            "level": self.level,
            "results": [self.summary(result) for result in self.results],
        }

    def vectors(self) -> Iterator[dict[str, Any]]:
        """Yield every vector and pole of every method and sparsity as plain data."""
        for result in self.results:
            for at, head, vector, side in torch.cartesian_prod(*map(torch.arange, result.fidelity.shape)).tolist():
                place = (at, head, vector, side)
                row = {
                    **result.settings,
                    "layer": self.layers[at],
                    "head": head,
                    "vector": vector,
                    "pole": self.poles[side],
                    "fidelity": float(result.fidelity[place]),
                    "ceiling": float(self.ceiling[place[:3]]),
                    "coherence": float(result.coherence[place]),
                }
                if result.p is not None and result.q is not None:
                    row |= {"p": float(result.p[place]), "q": float(result.q[place])}
                yield row


def vectors_csv(table: FidelityTable) -> str:
    """Return :meth:`FidelityTable.vectors` as CSV."""
    rows = list(table.vectors())
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _mean(values: Tensor, weight: Tensor) -> tuple[float, float]:
    """Return the weighted mean and standard deviation."""
    values, share = values.double(), weight.double().expand(values.shape)
    share = share / share.sum().clamp(min=torch.finfo(torch.float64).tiny)
    mean = (values * share).sum()
    return float(mean), float(((values - mean).square() * share).sum().sqrt())


def _relative(fidelity: Tensor, ceiling: Tensor) -> Tensor:
    return fidelity / ceiling.clamp(min=1e-6)
