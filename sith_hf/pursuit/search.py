"""``AtomSearch``: the best-scoring atoms of a large dictionary, exactly, without an [N, M] matrix."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sith_hf.pursuit.atoms import READ, Atoms, TensorAtoms, fixed_order_dot
from sith_hf.pursuit.candidates import GROUP, Candidates, Sieve
from sith_hf.pursuit.int8 import Int8Atoms, reduced_precision

TIE = 1e-12
"""Scores this close count as equal, and the lowest index wins. Absolute: vectors and atoms have length one."""

SCORES = 2**21
"""Scores in one block: 8 MB in float32, so that they are still in the processor's cache when they are compared."""

WIDE = 16
"""On devices other than a CPU, blocks are so many times as large: there few large products are what is fast."""

PAIRS = 2**21
"""Candidates held at once; where a dictionary full of near ties gives more, fewer vectors are treated at a time."""

PAIRED = 2**17
"""Numbers in the atoms of the candidates that are scored one by one at once: they stay in the cache of one core."""

ROUGH = 64
"""Eight bits are given up where they leave more than one in so many atoms: a float product is then the shorter way."""

CROWD = 16
"""Scoring one candidate by itself takes as long as so many scores of a float64 matrix product."""

REDUCED = 2**-7 + 2**-16
"""Relative error of a product whose factors were rounded to bfloat16; TensorFloat-32 stays below it."""


@dataclass(frozen=True, eq=False)
class AtomSearch:
    """Exact search for ``argmax_m <query, atom_m>`` over blocks of the dictionary (Method, sec. 4, steps 1 and 2).

    Matrix products preselect, each with an error that has a proved bound: Higham's for float products
    (:meth:`_rounding_bound`), Cauchy and Schwarz's for eight-bit ones (:meth:`sith_hf.pursuit.int8.Queries.miss`).
    :class:`~sith_hf.pursuit.Sieve` says which atoms can then still win; for float32 that is about one a vector, for
    eight bits about ten. Those are scored again in float64, with rounding errors far below ``TIE``: first
    the one that looks best, since its exact score rules out most of the others. So the answer is that of
    float64, whatever the block size, batch size, device, matmul precision or kind of product: equal atoms tie, and
    ties go to the lowest index.

    Attributes:
        atoms: the dictionary.
        longest: the length of the longest atom; the rounding bound is proportional to it.
        block_size: atoms in one matrix product; chosen from the number of queries when None.
        coarse: the dictionary in eight bits, which is tried first where there is one.
        device: where float products run; that of the atoms when None.
        scores: float scores held at once; ``scores_on`` the device when None.
        given_up: not empty once eight bits have left too many candidates: this search does not try them again.
    """

    atoms: Atoms
    longest: float
    block_size: int | None = None
    coarse: Int8Atoms | None = None
    device: torch.device | None = None
    scores: int | None = None
    given_up: list[bool] = field(default_factory=list)

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

    def rows(self, index: Tensor) -> Tensor:
        """The atoms ``index`` int64 of any shape, ``[..., P]``, where the index is."""
        return self.atoms.rows(index).to(index.device)

    def _best(self, query: Tensor, count: int, exclude: Tensor) -> tuple[Tensor, Tensor]:
        candidates = None
        if self.coarse is not None and not self.given_up:
            candidates = self._roughly(self.coarse, query, count, exclude)
            if candidates is None:
                self.given_up.append(True)
        candidates = candidates or self._preselect(query, count, exclude)
        if candidates is None:
            half = len(query) // 2
            parts = [self._best(query[part], count, exclude[part]) for part in (slice(half), slice(half, None))]
            return torch.cat([index for index, _ in parts]), torch.cat([score for _, score in parts])
        row, atom, score = self._decided(query, candidates, count)
        index = torch.empty(len(query), count, dtype=torch.long, device=query.device)
        value = query.new_empty(len(query), count)
        for place in range(count):
            top = query.new_full((len(query),), -torch.inf).scatter_reduce(0, row, score, "amax")
            tied = score >= top[row] - TIE
            index[:, place] = torch.full_like(index[:, 0], self.atoms.shape[0]).scatter_reduce(
                0, row[tied], atom[tied], "amin"
            )
            taken = atom == index[row, place]
            value[row[taken], place] = score[taken]
            score = score.masked_fill(taken, -torch.inf)
        return index, value

    def _roughly(self, coarse: Int8Atoms, query: Tensor, count: int, exclude: Tensor) -> Candidates | None:
        """Candidates by eight-bit products; None where these leave too many."""
        rows = len(query)
        queries = coarse.queries(query)
        sieve = Sieve(
            rows, count, exclude, coarse.device, TIE, min(PAIRS, rows * max(GROUP, self.atoms.shape[0] // ROUGH))
        )
        buffer = torch.empty(len(queries.digits), coarse.width, dtype=torch.int32, device=coarse.device)
        for block in coarse.blocks():
            product = buffer[:, : len(block.digits)]
            if not product.is_contiguous():
                product = torch.empty_like(product, memory_format=torch.contiguous_format)
            torch._int_mm(queries.digits, block.digits.mT, out=product)
            step, miss = queries.scale * block.scale, queries.miss(block)
            if not sieve.take(product[:rows], block.start, block.stop, step, miss):
                return None
        return sieve.candidates(query.device)

    def _preselect(self, query: Tensor, count: int, exclude: Tensor) -> Candidates | None:
        """Candidates by products in the atoms' dtype; None when they are too many to hold."""
        total, width = self.atoms.shape[0], self._block(len(query))
        device = self.device or self.atoms.device
        sieve = Sieve(len(query), count, exclude, device, TIE, PAIRS if len(query) > 1 else 2**62)
        rough, miss = query.to(device, self.atoms.dtype), self._rounding_bound(query).to(device, sieve.real)
        buffer = rough.new_empty(len(query), -(-width // sieve.group) * sieve.group)
        for start in range(0, total, width):
            stop = min(start + width, total)
            atoms = self.atoms.block(start, stop).to(device)
            torch.matmul(rough, atoms.mT, out=buffer[:, : stop - start])
            if not sieve.take(buffer, start, stop, None, miss):
                return None
        return sieve.candidates(query.device)

    def _decided(self, query: Tensor, found: Candidates, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, atoms and exact scores of the candidates that float scores do not rule out.

        Those that look best are scored first, since a better lower bound on the best score spares most of the others.
        """
        miss = self._rounding_bound(query)
        narrow = query.to(self.atoms.dtype)
        ahead = found.leading(count, len(query))
        first = ahead.nonzero().squeeze(1)
        score = self._scores(narrow, found.row[first], found.atom[first]).double()
        lower = query.new_full((len(query),), torch.inf).scatter_reduce(0, found.row[first], score, "amin") - miss
        rest = (~ahead & (found.upper >= (lower - 2 * TIE)[found.row])).nonzero().squeeze(1)
        others = self._scores(narrow, found.row[rest], found.atom[rest]).double()
        pick, score = torch.cat([first, rest]), torch.cat([score, others])
        left = Candidates(found.row[pick], found.atom[pick], score + miss[found.row[pick]])
        first = left.leading(count, len(query)).nonzero().squeeze(1)
        lower = query.new_full((len(query),), torch.inf).scatter_reduce(0, left.row[first], score[first], "amin") - miss
        keep = left.upper >= (lower - 2 * TIE)[left.row]
        row, atom = left.row[keep], left.atom[keep]
        return row, atom, self._scores(query, row, atom)

    def _scores(self, query: Tensor, row: Tensor, atom: Tensor) -> Tensor:
        """``<query[row], atom>`` for each pair, ``[C]``, computed in the query's dtype."""
        used, place = torch.unique(atom, return_inverse=True)
        if CROWD * len(row) > len(used) * len(query) and len(row) > 0:
            size = max(1, SCORES // query.shape[1])
            score = query.new_empty(len(row))
            for start in range(0, len(used), size):
                scores = query @ self.rows(used[start : start + size]).to(query.dtype).mT
                here = ((place >= start) & (place < start + size)).nonzero().squeeze(1)
                score[here] = scores[row[here], place[here] - start]
            return score
        size = max(1, (PAIRED if query.device.type == "cpu" else SCORES * WIDE) // query.shape[1])
        pieces = [slice(start, start + size) for start in range(0, len(row), size)]
        found = [fixed_order_dot(query[row[part]], self.rows(atom[part]).to(query.dtype)) for part in pieces]
        return torch.cat([query.new_empty(0), *found])

    def _rounding_bound(self, query: Tensor) -> Tensor:
        """By how much a float product can miss the exact score, for each query (Higham, 2002, sec. 3.1).

        A sum of P products is off by ``g = (P + 8) u / (1 - (P + 8) u)`` of the sum of their sizes, which is at most
        ``|q| |t|``, in whatever order they are added; the 8 covers the rounding of the query. Blocks off by
        ``slack`` add ``slack |q|``.
        """
        terms = query.shape[1]
        unit = torch.finfo(self.atoms.dtype).eps / 2
        relative = (terms + 8) * unit / (1 - (terms + 8) * unit)
        if self.atoms.dtype == torch.float32 and reduced_precision():
            relative += REDUCED
        slack = self.atoms.slack
        bound: Tensor = (relative * (self.longest + slack) + slack) * torch.linalg.vector_norm(query, dim=1)
        return bound

    def _block(self, rows: int) -> int:
        count, terms = self.atoms.shape
        scores = self.scores or scores_on(self.device or self.atoms.device)
        size = self.block_size or max(GROUP, scores // rows // GROUP * GROUP)
        if not isinstance(self.atoms, TensorAtoms) or self.device not in (None, self.atoms.device):
            # A block that is more than a view of what is there anyway is kept small.
            size = min(size, max(GROUP, READ // terms))
        return min(size, count)

    def _lowest(self, count: int, exclude: Tensor) -> Tensor:
        first = torch.arange(count + exclude.shape[1], device=exclude.device)
        taken = (exclude.unsqueeze(2) == first).any(1)
        return taken.int().argsort(dim=1, stable=True)[:, :count]


def scores_on(device: torch.device) -> int:
    """Scores in one block on ``device``."""
    return SCORES if device.type == "cpu" else SCORES * WIDE
