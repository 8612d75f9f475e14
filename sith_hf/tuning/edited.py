"""``Bench``: the model under edits of candidates, and what the target and the collateral see of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.edits import EditSpec, applied, gain_slopes
from sith_hf.gains import VectorKey
from sith_hf.images import HeldRows
from sith_hf.tuning.candidates import terms_of
from sith_hf.tuning.objectives import Objective

GainOf = Mapping[VectorKey, float]
Seen = Mapping[int, Mapping[str, Tensor]]
"""The ``id`` of held rows to their embeddings by image column."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model in memory, and the two figures of a search.

    The merit of an edit is the smooth target plus ``trade`` times the smooth collateral, where higher is better. A
    figure without a smooth stand-in counts itself.

    Attributes:
        model: the model.
        every: the terms of all candidates.
        target, collateral: the two figures.
        drift: the estimated drift of removing each candidate alone, if that is the collateral; else None.
    """

    model: Any
    every: EditSpec
    target: Objective
    collateral: Objective
    drift: GainOf | None = None

    def values(self, gains: GainOf) -> tuple[float, float]:
        """Return target and collateral of an edit."""
        seen = self.look(gains)
        target, other = (each.value(seen.get(id(each.held), {}), gains) for each in (self.target, self.collateral))
        return target, other

    def look(self, gains: GainOf, trade: float = 1.0) -> Seen:
        """Return the embeddings by the edited model, of the rows that the merit with ``trade`` needs."""
        with self._edited(gains):
            return {id(rows): {name: rows.embed(name) for name in rows.batches} for rows in self._rows(trade)}

    def merit(self, seen: Seen, gains: GainOf, trade: float) -> float:
        """Return the merit of an edit from what :meth:`look` saw of it."""
        total = 0.0
        for each, weight in ((self.target, 1.0), (self.collateral, trade)):
            if not weight:
                continue
            images = seen.get(id(each.held), {})
            with torch.no_grad():
                found = each.smooth(images)
            value = each.value(images, gains) if found is None else float(found)
            total += weight * (-value if found is None and each.lowest else value)
        return total

    def slopes(self, seen: Seen, gains: GainOf, trade: float) -> Tensor | None:
        """Return the slope of the merit along each candidate's gain, ``[N]``; None without a smooth target."""
        leaves = {key: {name: own.clone().requires_grad_() for name, own in each.items()} for key, each in seen.items()}
        with torch.enable_grad():
            merit = self.target.smooth(leaves.get(id(self.target.held), {}))
            if merit is None:
                return None
            other = self.collateral.smooth(leaves.get(id(self.collateral.held), {})) if trade else None
            torch.autograd.backward(merit if other is None else merit + trade * other)

        def backward() -> None:
            # Batch by batch, so that activations of one batch exist at a time.
            for rows in self._rows(trade):
                for name, leaf in leaves[id(rows)].items():
                    if leaf.grad is None:  # a column that no figure reads
                        continue
                    start = 0
                    for embedded in rows.stream(name):
                        torch.autograd.backward(embedded, leaf.grad[start : start + len(embedded)])
                        start += len(embedded)

        with self._edited(gains):
            found = gain_slopes(self.model, self.every, backward)
        if trade and self.drift is not None:
            # The drift is a sum of squares, flat at a gain of 1: removing a vector costs as much as this slope says.
            found = found + trade * torch.tensor([self.drift[key] for key in self.every.keys], dtype=torch.float64)
        return found

    def _rows(self, trade: float) -> list[HeldRows]:
        figures = (self.target, self.collateral) if trade else (self.target,)
        return list({id(each.held): each.held for each in figures if each.held is not None}.values())

    def _edited(self, gains: GainOf) -> ExitStack:
        """Return a context in which the model has an edit."""
        stack, spec = ExitStack(), terms_of(self.every, gains)
        if spec:
            stack.enter_context(applied(self.model, spec))
        return stack
