"""``AtomSearch``: the best-scoring atoms of a large dictionary, exactly, without an [N, M] matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 1e-12
"""Scores this close count as equal, and the lowest index wins. Absolute: vectors and atoms have length one."""

GROUP = 64
"""Scores are looked through by their maximum first, then group by group: only a few groups are ever opened."""

SMALL_GROUP = 8
"""The same when several atoms are sought: their bar is the last of as many group maxima, closer for small groups."""

SCORES = 2**21
"""Scores in one block: 8 MB in float32, so that they are still in the processor's cache when they are compared."""

PAIRS = 2**21
"""Candidates held at once; where a dictionary full of near ties gives more, fewer vectors are treated at a time."""

CROWD = 64
"""Candidates for each query from which on a float64 matrix product is cheaper than scoring them pair by pair."""

REDUCED = 2**-7 + 2**-16
"""Relative error of a product whose factors were rounded to bfloat16; TensorFloat-32 stays below it."""


@dataclass(frozen=True)
class AtomSearch:
    """Exact search for ``argmax_m <query, atom_m>`` over blocks of the dictionary (METHOD.md sec. 4, steps 1 and 2).

    Matrix products preselect: their rounding error has a bound, and every atom within twice that bound of a
    vector's best product is a candidate (for float32, about one a vector). Candidates are scored again in float64,
    with rounding errors far below ``TIE``. So the answer is that of float64, whatever the block size, batch size,
    device or matmul precision: equal atoms tie, and ties go to the lowest index.

    Attributes:
        atoms: ``[M, P]`` float32 or float64.
        longest: the length of the longest atom; the rounding bound is proportional to it.
        block_size: atoms in one matrix product; chosen from the number of queries when None.
    """

    atoms: Tensor
    longest: float
    block_size: int | None = None

    def best(self, query: Tensor, count: int = 1, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The ``count`` best atoms for each query, the same as asking for one and excluding it ``count`` times.

        Args:
            query: ``[N, P]`` float64.
            count: at most the number of atoms that are not excluded.
            exclude: ``[N, E]`` int64, atoms that must not be chosen, different ones in each row.

        Returns:
            Indices ``[N, count]`` int64 and float64 scores ``[N, count]``, best first.
        """
        if exclude is None:
            exclude = torch.empty(len(query), 0, dtype=torch.long, device=query.device)
        index = self._lowest(count, exclude)
        score = query.new_zeros(index.shape)
        # Where nothing is left to match, every score is a tie; products would only order the rounding errors.
        asking = (torch.linalg.vector_norm(query, dim=1) > TIE).nonzero().squeeze(1)
        if len(asking) > 0:
            index[asking], score[asking] = self._best(query[asking], count, exclude[asking])
        return index, score

    def _best(self, query: Tensor, count: int, exclude: Tensor) -> tuple[Tensor, Tensor]:
        candidates = self._preselect(query, count, exclude)
        if candidates is None:
            half = len(query) // 2
            parts = [self._best(query[part], count, exclude[part]) for part in (slice(half), slice(half, None))]
            return torch.cat([index for index, _ in parts]), torch.cat([score for _, score in parts])
        row, atom = candidates
        score = self._exact_scores(query, row, atom)
        index = torch.empty(len(query), count, dtype=torch.long, device=query.device)
        value = query.new_empty(len(query), count)
        for place in range(count):
            top = query.new_full((len(query),), -torch.inf).scatter_reduce(0, row, score, "amax")
            tied = score >= top[row] - TIE
            index[:, place] = torch.full_like(index[:, 0], len(self.atoms)).scatter_reduce(
                0, row[tied], atom[tied], "amin"
            )
            taken = atom == index[row, place]
            value[row[taken], place] = score[taken]
            score = score.masked_fill(taken, -torch.inf)
        return index, value

    def _preselect(self, query: Tensor, count: int, exclude: Tensor) -> tuple[Tensor, Tensor] | None:
        """Pairs (row of the query, atom) that hold every possible winner; None when they are too many to hold."""
        total, width = len(self.atoms), self._block(len(query))
        size = GROUP if count == 1 else SMALL_GROUP
        rough = query.to(self.atoms.dtype)
        window = (2 * self._rounding_bound(query) + TIE).to(rough.dtype).unsqueeze(1)
        leaders = rough.new_full((len(query), count), -torch.inf)
        buffer = rough.new_empty(len(query), -(-width // size) * size)
        groups = buffer.view(len(query), -1, size)
        barred, order = exclude.flatten().sort()
        barred_row = order // max(exclude.shape[1], 1)
        starts = range(0, total, width)
        cuts = torch.searchsorted(barred, torch.tensor([*starts, total], device=barred.device)).tolist()
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        held = 0
        for block, start in enumerate(starts):
            stop = min(start + width, total)
            torch.matmul(rough, self.atoms[start:stop].mT, out=buffer[:, : stop - start])
            buffer[:, stop - start :] = -torch.inf
            within = slice(cuts[block], cuts[block + 1])
            buffer[barred_row[within], barred[within] - start] = -torch.inf
            peaks = groups.amax(2)
            leaders = _merge(leaders, peaks)
            bar = leaders[:, -1:] - window
            row, group = (peaks >= bar).nonzero(as_tuple=True)
            near = groups[row, group]
            # While fewer groups than atoms sought have been seen the bar is minus infinity, as is all that is barred.
            hit, offset = ((near >= bar[row]) & (near > -torch.inf)).nonzero(as_tuple=True)
            found.append((row[hit], start + group[hit] * size + offset, near[hit, offset]))
            held += len(hit)
            if held > PAIRS and len(query) > 1:
                return None
        row, atom, score = (torch.cat(part) for part in zip(*found, strict=True))
        keep = score >= (leaders[:, -1:] - window)[row].squeeze(1)
        return row[keep], atom[keep]

    def _exact_scores(self, query: Tensor, row: Tensor, atom: Tensor) -> Tensor:
        size = max(1, SCORES // query.shape[1])
        if len(row) > CROWD * len(query):
            used = torch.zeros(len(self.atoms), dtype=torch.bool, device=atom.device).index_fill_(0, atom, True)
            place, used = (used.cumsum(0) - 1)[atom], used.nonzero().squeeze(1)
            score = query.new_empty(len(row))
            for start in range(0, len(used), size):
                scores = query @ self.atoms[used[start : start + size]].double().mT
                here = ((place >= start) & (place < start + size)).nonzero().squeeze(1)
                score[here] = scores[row[here], place[here] - start]
            return score
        pieces = [slice(start, start + size) for start in range(0, len(row), size)]
        return torch.cat([_fixed_order_dot(query[row[part]], self.atoms[atom[part]].double()) for part in pieces])

    def _rounding_bound(self, query: Tensor) -> Tensor:
        """By how much a matrix product can miss the exact score, for each query (Higham, 2002, sec. 3.1)."""
        terms = query.shape[1]
        unit = torch.finfo(self.atoms.dtype).eps / 2
        relative = (terms + 8) * unit / (1 - (terms + 8) * unit)
        if self.atoms.dtype == torch.float32 and _reduced_precision():
            relative += REDUCED
        bound: Tensor = relative * self.longest * torch.linalg.vector_norm(query, dim=1)
        return bound

    def _block(self, rows: int) -> int:
        size = self.block_size or max(GROUP, SCORES // rows // GROUP * GROUP)
        return min(size, len(self.atoms))

    def _lowest(self, count: int, exclude: Tensor) -> Tensor:
        first = torch.arange(count + exclude.shape[1], device=exclude.device)
        taken = (exclude.unsqueeze(2) == first).any(1)
        return taken.int().argsort(dim=1, stable=True)[:, :count]


def _merge(leaders: Tensor, peaks: Tensor) -> Tensor:
    if leaders.shape[1] == 1:
        return torch.maximum(leaders, peaks.amax(1, keepdim=True))
    # Peaks belong to different atoms, so the last of them is not above the score of the last atom sought.
    return torch.cat([leaders, peaks], 1).topk(leaders.shape[1], dim=1).values


def _fixed_order_dot(left: Tensor, right: Tensor) -> Tensor:
    """Row by row inner products whose order of additions depends on the width alone, not on batch or device."""
    terms = left * right
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        folded = terms[:, :half] + terms[:, half : 2 * half]
        if terms.shape[1] % 2:
            folded[:, 0] += terms[:, -1]
        terms = folded
    return terms.squeeze(1)


def _reduced_precision() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch refuses to answer when only some of its backends were set
        return True
