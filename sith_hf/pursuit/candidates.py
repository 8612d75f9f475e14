"""``Sieve``: what rough scores with a proved error leave of a dictionary; ``Candidates``: the atoms left over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 64
"""Scores are looked through by their maximum first, then group by group: only a few groups are ever opened."""

SMALL_GROUP = 8
"""The same when several atoms are sought: their bar is the last of as many group maxima, closer for small groups."""

INT32_MIN = -(2**31)
"""What takes the place of an integer score that does not count."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs (row of the query, atom) that hold every possible winner.

    Attributes:
        row, atom: ``[C]`` int64.
        upper: ``[C]`` float64, at least the exact score.
    """

    row: Tensor
    atom: Tensor
    upper: Tensor

    def leading(self, count: int, rows: int) -> Tensor:
        """Which pairs are the ``count`` of highest ``upper`` in their row, ``[C]`` bool. Every row has that many."""
        order = self.upper.argsort(descending=True, stable=True)
        order = order[self.row[order].argsort(stable=True)]
        row = self.row[order]
        size = torch.zeros(rows, dtype=torch.long, device=row.device).index_add_(0, row, torch.ones_like(row))
        rank = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size)[row]
        return torch.zeros_like(row, dtype=torch.bool).index_fill_(0, order[rank < count], True)


class Sieve:
    """Takes rough scores block by block and keeps the pairs that may still be among the ``count`` best of their row.

    If a rough score ``r`` misses the exact one ``s`` by at most ``miss``, then ``r - miss <= s <= r + miss``. The
    ``count``-th largest ``r - miss`` so far (of different atoms) is therefore a lower bound on the ``count``-th best
    exact score, and a pair with ``r + miss`` below it by more than ``tie`` can neither win nor tie.
    """

    def __init__(self, rows: int, count: int, exclude: Tensor, device: torch.device, tie: float, limit: int) -> None:
        """
        Args:
            rows: N, how many queries there are.
            count: how many atoms are sought for each.
            exclude: ``[N, E]`` int64, atoms that do not count.
            device: where the rough scores are.
            tie: scores this close count as equal.
            limit: pairs held at once.
        """
        # Apple's GPUs have no float64; float32 there costs some candidates, so ``miss`` is widened by its rounding.
        self.real = torch.float32 if device.type == "mps" else torch.float64
        self.group = GROUP if count == 1 else SMALL_GROUP
        self._lower = torch.full((rows, count), -torch.inf, dtype=self.real, device=device)
        self._tie, self._limit, self._held = tie, limit, 0
        self._barred, order = exclude.to(device).flatten().sort()
        self._barred_row = order // max(exclude.shape[1], 1)
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(self, product: Tensor, start: int, stop: int, step: Tensor | None, miss: Tensor) -> bool:
        """Sieve the rough scores of atoms ``start`` to ``stop``.

        Args:
            product: ``[N, W]`` of a floating dtype or int32, W at least ``stop - start`` and a multiple of ``group``.
                It is written to.
            start, stop: which atoms.
            step: ``[N]``, what one of ``product`` stands for; 1 when None.
            miss: ``[N]``, by how much ``step * product`` can miss the exact score.

        Returns:
            False once more pairs are left than may be held.
        """
        least = -torch.inf if product.is_floating_point() else INT32_MIN
        product[:, stop - start :] = least
        edges = torch.searchsorted(self._barred, torch.tensor([start, stop], device=self._barred.device)).tolist()
        barred = slice(*edges)
        product[self._barred_row[barred], self._barred[barred] - start] = least

        miss = miss.to(self._lower)
        if self.real == torch.float32:
            miss = miss * (1 + 2**-10) + 2**-20
        groups = product.view(len(product), -1, self.group)
        peaks = groups.amax(2)
        self._raise(peaks, step, miss)
        bar = self._bar(miss, step, product.dtype)
        row, group = (peaks >= bar.unsqueeze(1)).nonzero(as_tuple=True)
        near = groups[row, group]
        # While fewer groups than atoms sought have been seen the bar is as low as what does not count.
        hit, offset = ((near >= bar[row].unsqueeze(1)) & (near > least)).nonzero(as_tuple=True)
        row, atom = row[hit], start + group[hit] * self.group + offset
        upper = near[hit, offset].to(self.real)
        upper = (upper if step is None else upper * step[row]) + miss[row]
        self._found.append((row, atom, upper))
        self._held += len(row)
        if self._held > self._limit:
            self._found = [self._left()]
            self._held = len(self._found[0][0])
        return self._held <= self._limit

    def candidates(self, device: torch.device) -> Candidates:
        """What is left, on ``device``."""
        row, atom, upper = self._left()
        return Candidates(row.to(device), atom.to(device), upper.to(device).double())

    def _left(self) -> tuple[Tensor, Tensor, Tensor]:
        row, atom, upper = (torch.cat(part) for part in zip(*self._found, strict=True))
        keep = upper >= self._lower[row, -1] - 2 * self._tie
        return row[keep], atom[keep], upper[keep]

    def _raise(self, peaks: Tensor, step: Tensor | None, miss: Tensor) -> None:
        count = self._lower.shape[1]
        best = peaks.amax(1, keepdim=True) if count == 1 else peaks
        lower = (best.to(self.real) if step is None else best * step.unsqueeze(1)) - miss.unsqueeze(1)
        if count == 1:
            self._lower = torch.maximum(self._lower, lower)
        else:
            # Peaks belong to different atoms, so the last of them is not above the score of the last atom sought.
            self._lower = torch.cat([self._lower, lower], 1).topk(count, dim=1).values

    def _bar(self, miss: Tensor, step: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The least rough score that counts, ``[N]``, rounded down to the dtype of the scores."""
        bar = self._lower[:, -1] - miss - 2 * self._tie
        if step is None:
            down = bar - 4 * torch.finfo(dtype).eps * bar.abs()
            return down.nan_to_num(nan=-torch.inf, neginf=-torch.inf).to(dtype)
        return ((bar / step).floor() - 1).clamp(min=INT32_MIN + 1).to(dtype)


__all__ = ["GROUP", "SMALL_GROUP", "Candidates", "Sieve"]
