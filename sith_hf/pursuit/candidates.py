"""``Sieve``: keeps the atoms that can still win, given approximate scores with a proved error bound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Scores are compared by the maximum of each group first; only few groups are examined further.
GROUP = 64
# The group size when several atoms are sought: their threshold comes from group maxima, tighter for small groups.
SMALL_GROUP = 8
# Replaces the integer score of an excluded atom.
INT32_MIN = -(2**31)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs (query, atom) that include every possible winner.

    Attributes:
        row, atom: ``[C]`` int64.
        upper: ``[C]`` float64, upper bounds on the exact scores.
    """

    row: Tensor
    atom: Tensor
    upper: Tensor

    def leading(self, count: int, rows: int) -> Tensor:
        """Return a mask ``[C]`` of the ``count`` pairs of highest ``upper`` in each row, which has that many."""
        order = self.upper.argsort(descending=True, stable=True)
        order = order[self.row[order].argsort(stable=True)]
        row = self.row[order]
        size = torch.zeros(rows, dtype=torch.long, device=row.device).index_add_(0, row, torch.ones_like(row))
        rank = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size)[row]
        return torch.zeros_like(row, dtype=torch.bool).index_fill_(0, order[rank < count], True)


class Sieve:
    """A filter of approximate scores, block by block, for pairs that can still be among the ``count`` best of a row.

    If a score ``r`` differs from the exact one ``s`` by at most ``bound``, then ``r - bound <= s <= r + bound``. The
    ``count``-th largest ``r - bound`` so far (of different atoms) is therefore a lower bound on the ``count``-th best
    exact score, and a pair with ``r + bound`` below it by more than ``tie`` can neither win nor tie.
    """

    def __init__(self, rows: int, count: int, exclude: Tensor, device: torch.device, tie: float, limit: int) -> None:
        """Start without candidates.

        Args:
            rows: N, the number of queries.
            count: the number of atoms to find for each query.
            exclude: ``[N, E]`` int64, atoms to ignore.
            device: the device of the scores.
            tie: scores this close are equal.
            limit: the largest number of pairs to keep.
        """
        # MPS has no float64; with float32, ``bound`` is increased by its rounding, which keeps a few more candidates.
        self.real = torch.float32 if device.type == "mps" else torch.float64
        self.group = GROUP if count == 1 else SMALL_GROUP
        self._lower = torch.full((rows, count), -torch.inf, dtype=self.real, device=device)
        self._tie, self._limit, self._held = tie, limit, 0
        self._excluded, order = exclude.to(device).flatten().sort()
        self._excluded_row = order // max(exclude.shape[1], 1)
        self._found: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(self, product: Tensor, start: int, stop: int, step: Tensor | None, bound: Tensor) -> bool:
        """Add the approximate scores of atoms ``start`` to ``stop``.

        Args:
            product: ``[N, W]`` of a floating dtype or int32, W at least ``stop - start`` and a multiple of ``group``.
                Modified in place.
            start, stop: the range of atoms.
            step: ``[N]``, the scale of ``product``; 1 when None.
            bound: ``[N]``, a bound on the error of ``step * product``.

        Returns:
            False if more than ``limit`` pairs are left.
        """
        least = -torch.inf if product.is_floating_point() else INT32_MIN
        product[:, stop - start :] = least
        edges = torch.searchsorted(self._excluded, torch.tensor([start, stop], device=self._excluded.device)).tolist()
        excluded = slice(*edges)
        product[self._excluded_row[excluded], self._excluded[excluded] - start] = least

        bound = bound.to(self._lower)
        if self.real == torch.float32:
            bound = bound * (1 + 2**-10) + 2**-20
        groups = product.view(len(product), -1, self.group)
        peaks = groups.amax(2)
        self._raise(peaks, step, bound)
        threshold = self._threshold(bound, step, product.dtype)
        row, group = (peaks >= threshold.unsqueeze(1)).nonzero(as_tuple=True)
        near = groups[row, group]
        # Until enough groups are seen, the threshold also admits excluded atoms; drop those.
        hit, offset = ((near >= threshold[row].unsqueeze(1)) & (near > least)).nonzero(as_tuple=True)
        row, atom = row[hit], start + group[hit] * self.group + offset
        upper = near[hit, offset].to(self.real)
        upper = (upper if step is None else upper * step[row]) + bound[row]
        self._found.append((row, atom, upper))
        self._held += len(row)
        if self._held > self._limit:
            self._found = [self._left()]
            self._held = len(self._found[0][0])
        return self._held <= self._limit

    def candidates(self, device: torch.device) -> Candidates:
        """Return the remaining pairs, on ``device``."""
        row, atom, upper = self._left()
        return Candidates(row.to(device), atom.to(device), upper.to(device).double())

    def _left(self) -> tuple[Tensor, Tensor, Tensor]:
        row, atom, upper = (torch.cat(part) for part in zip(*self._found, strict=True))
        keep = upper >= self._lower[row, -1] - 2 * self._tie
        return row[keep], atom[keep], upper[keep]

    def _raise(self, peaks: Tensor, step: Tensor | None, bound: Tensor) -> None:
        count = self._lower.shape[1]
        best = peaks.amax(1, keepdim=True) if count == 1 else peaks
        lower = (best.to(self.real) if step is None else best * step.unsqueeze(1)) - bound.unsqueeze(1)
        if count == 1:
            self._lower = torch.maximum(self._lower, lower)
        else:
            # Peaks belong to different atoms, so the count-th largest is a lower bound on the count-th best score.
            self._lower = torch.cat([self._lower, lower], 1).topk(count, dim=1).values

    def _threshold(self, bound: Tensor, step: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the lowest approximate score to keep, ``[N]``, rounded down in the dtype of the scores."""
        bar = self._lower[:, -1] - bound - 2 * self._tie
        if step is None:
            down = bar - 4 * torch.finfo(dtype).eps * bar.abs()
            return down.nan_to_num(nan=-torch.inf, neginf=-torch.inf).to(dtype)
        return ((bar / step).floor() - 1).clamp(min=INT32_MIN + 1).to(dtype)
