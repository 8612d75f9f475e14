"""``AtomSearch``: an exact search for the best-scoring atoms of a large dictionary, without an [N, M] matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from sith_hf.pursuit.atoms import READ, TensorAtoms, fixed_order_dot
from sith_hf.pursuit.candidates import GROUP, Candidates, Sieve
from sith_hf.pursuit.index import DictionaryIndex
from sith_hf.pursuit.int8 import Int8Atoms, reduced_precision

# Scores this close tie, and the lowest index wins. The number is absolute, because vectors and atoms have unit length.
TIE = 1e-12
# Scores in one block: 8 MB in float32, which fit the processor's cache.
SCORES = 2**21
# Blocks on other devices than a CPU are this many times as large, because few large products are faster there.
WIDE = 16
# The largest number of candidates in memory; if near ties give more, the queries are split.
PAIRS = 2**21
# Numbers in one batch of candidates' atoms that are scored one by one: they fit the cache of one core.
PAIRED = 2**17
# Fall back to float32 when int8 keeps more than one in this many atoms.
MAX_LEFT = 64
# Scoring one candidate by itself takes as long as this many scores in a float64 matrix product.
PAIR_COST = 16
# Relative error of a product with factors rounded to bfloat16; TensorFloat-32 stays below it.
REDUCED = 2**-7 + 2**-16


class AtomSearch:
    """Exact search for ``argmax_m <query, atom_m>`` over blocks of the dictionary (Method, sec. 4, steps 1 and 2).

    Matrix products preselect candidates. Their errors have proved bounds: Higham's for float products
    (:meth:`_rounding_bound`), Cauchy-Schwarz for int8 (:meth:`sith_hf.pursuit.int8.Queries.error_bound`). The
    :class:`~sith_hf.pursuit.candidates.Sieve` keeps the atoms that can still win: per vector about one for float32,
    about ten for int8. They are scored again in float64, with rounding errors far below ``TIE``; the most promising
    first, because its exact score rules out most others. So the result is that of float64 for every block size, batch
    size, device, matmul precision and kind of product.
    """

    def __init__(self, dictionary: DictionaryIndex, block_size: int | None = None, scores: int | None = None) -> None:
        """Prepare a search in a dictionary.

        Args:
            dictionary: the atoms; int8 products are tried first, until they keep too many candidates.
            block_size: atoms in one matrix product; chosen from the number of queries when None.
            scores: float scores in one block; ``scores_on(device)`` when None.
        """
        self.atoms, self.longest, self.int8 = dictionary.atoms, dictionary.longest, dictionary.int8
        self.device, self.block_size = dictionary.device, block_size
        self.scores = scores or scores_on(dictionary.device)

    def best(self, query: Tensor, count: int = 1, exclude: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the ``count`` best atoms for each query, the same as finding one and excluding it ``count`` times.

        Args:
            query: ``[N, P]`` float64.
            count: at most the number of atoms that are not excluded.
            exclude: ``[N, E]`` int64, atoms to ignore, distinct within a row.

        Returns:
            Indices ``[N, count]`` int64 and float64 scores ``[N, count]``, best first.
        """
        if exclude is None:
            exclude = torch.empty(len(query), 0, dtype=torch.long, device=query.device)
        index = self._lowest(count, exclude)
        score = query.new_zeros(index.shape)
        # For a zero query every atom ties; products would only rank rounding errors.
        asking = (torch.linalg.vector_norm(query, dim=1) > TIE).nonzero().squeeze(1)
        if len(asking) > 0:
            index[asking], score[asking] = self._best(query[asking], count, exclude[asking])
        return index, score

    def rows(self, index: Tensor) -> Tensor:
        """Return the atoms ``index`` int64 of any shape, ``[..., P]``, on the device of the index."""
        return self.atoms.rows(index).to(index.device)

    def _best(self, query: Tensor, count: int, exclude: Tensor) -> tuple[Tensor, Tensor]:
        candidates = None
        if self.int8 is not None:
            candidates = self._preselect_int8(self.int8, query, count, exclude)
            if candidates is None:
                self.int8 = None
        candidates = candidates or self._preselect(query, count, exclude)
        if candidates is None:
            half = len(query) // 2
            parts = [self._best(query[part], count, exclude[part]) for part in (slice(half), slice(half, None))]
            return torch.cat([index for index, _ in parts]), torch.cat([score for _, score in parts])
        row, atom, score = self._rescore(query, candidates, count)
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

    def _preselect_int8(self, int8: Int8Atoms, query: Tensor, count: int, exclude: Tensor) -> Candidates | None:
        """Return the candidates by int8 products; None if there are too many."""
        rows = len(query)
        queries = int8.queries(query)
        sieve = Sieve(
            rows, count, exclude, int8.device, TIE, min(PAIRS, rows * max(GROUP, self.atoms.shape[0] // MAX_LEFT))
        )
        buffer = torch.empty(len(queries.digits), int8.width, dtype=torch.int32, device=int8.device)
        for block in int8.blocks():
            product = buffer[:, : len(block.digits)]
            if not product.is_contiguous():
                product = torch.empty_like(product, memory_format=torch.contiguous_format)
            torch._int_mm(queries.digits, block.digits.mT, out=product)
            step, bound = queries.scale * block.scale, queries.error_bound(block)
            if not sieve.take(product[:rows], block.start, block.stop, step, bound):
                return None
        return sieve.candidates(query.device)

    def _preselect(self, query: Tensor, count: int, exclude: Tensor) -> Candidates | None:
        """Return the candidates by products in the atoms' dtype; None if there are too many."""
        total, width = self.atoms.shape[0], self._block(len(query))
        device = self.device
        sieve = Sieve(len(query), count, exclude, device, TIE, PAIRS if len(query) > 1 else 2**62)
        rough, bound = query.to(device, self.atoms.dtype), self._rounding_bound(query).to(device, sieve.real)
        buffer = rough.new_empty(len(query), -(-width // sieve.group) * sieve.group)
        for start in range(0, total, width):
            stop = min(start + width, total)
            atoms = self.atoms.block(start, stop).to(device)
            torch.matmul(rough, atoms.mT, out=buffer[:, : stop - start])
            if not sieve.take(buffer, start, stop, None, bound):
                return None
        return sieve.candidates(query.device)

    def _rescore(self, query: Tensor, found: Candidates, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, atoms and exact scores of the candidates that float scores do not rule out.

        The most promising ones come first: a better lower bound on the best score rules out most others.
        """
        bound, narrow = self._rounding_bound(query), query.to(self.atoms.dtype)

        def least(row: Tensor, score: Tensor) -> Tensor:
            """Return the upper bound that a candidate must reach, from ``count`` scores for each query."""
            lowest = query.new_full((len(query),), torch.inf).scatter_reduce(0, row, score, "amin")
            return lowest - bound - 2 * TIE

        ahead = found.leading(count, len(query))
        first = ahead.nonzero().squeeze(1)
        score = self._scores(narrow, found.row[first], found.atom[first]).double()
        rest = (~ahead & (found.upper >= least(found.row[first], score)[found.row])).nonzero().squeeze(1)
        others = self._scores(narrow, found.row[rest], found.atom[rest]).double()
        pick, score = torch.cat([first, rest]), torch.cat([score, others])
        left = Candidates(found.row[pick], found.atom[pick], score + bound[found.row[pick]])
        first = left.leading(count, len(query)).nonzero().squeeze(1)
        keep = left.upper >= least(left.row[first], score[first])[left.row]
        row, atom = left.row[keep], left.atom[keep]
        return row, atom, self._scores(query, row, atom)

    def _scores(self, query: Tensor, row: Tensor, atom: Tensor) -> Tensor:
        """Return ``<query[row], atom>`` for each pair, ``[C]``, computed in the query's dtype."""
        used, place = torch.unique(atom, return_inverse=True)
        if PAIR_COST * len(row) > len(used) * len(query) and len(row) > 0:
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
        """Return a bound on the error of a float product, for each query (Higham, 2002, sec. 3.1).

        A sum of P products is off by ``g = (P + 8) u / (1 - (P + 8) u)`` of the sum of their sizes, which is at most
        ``|q| |t|``, in any order of additions; the 8 covers the rounding of the query. Blocks off by
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
        size = self.block_size or max(GROUP, self.scores // rows // GROUP * GROUP)
        if not isinstance(self.atoms, TensorAtoms) or self.device != self.atoms.device:
            # A block that is not a view of a tensor in memory stays small.
            size = min(size, max(GROUP, READ // terms))
        return min(size, count)

    def _lowest(self, count: int, exclude: Tensor) -> Tensor:
        first = torch.arange(count + exclude.shape[1], device=exclude.device)
        taken = (exclude.unsqueeze(2) == first).any(1)
        return taken.int().argsort(dim=1, stable=True)[:, :count]


def scores_on(device: torch.device) -> int:
    """Return the number of scores in one block on ``device``."""
    return SCORES if device.type == "cpu" else SCORES * WIDE
