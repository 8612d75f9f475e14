"""``Coarse``: a dictionary in eight bits, whose products say with certainty which atoms cannot win."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from sith_hf.pursuit.atoms import Atoms

BLOCK = 2048
"""Atoms that share one scale and one matrix product on a CPU: the scores stay in its cache."""

WIDE_BLOCK = 2**15
"""The same on other devices, where few large products are what is fast."""

LEVELS = 127
"""Numbers are rounded to -127 .. 127 steps."""

LANES = 64
"""Rows and columns are filled up with zeros to a multiple of this: whole groups of scores, and integer kernels ask for
8 or 16 themselves (and for more than 16 queries)."""

HELD_BYTES = 2**31
"""Bytes of rounded atoms that are held (2 GB: 2.8 million atoms of 768 numbers); the rest is rounded at every pass."""


SPIKY = 7.0
"""Largest number of a block over the root mean square of its numbers, from which on the atoms are turned first: a few
numbers much larger than the others make all steps long. Of two million normal numbers the largest is about 5.2."""


@dataclass(frozen=True, eq=False)
class Turn:
    """A rotation that spreads a few large numbers over all: of the P numbers as a table, its rows, then its columns.

    Inner products stay what they are, so atoms and queries may both be turned before they are rounded.

    Attributes:
        rows, columns: ``[a, a]`` and ``[b, b]`` float64, orthogonal, with ``a * b`` = P.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, width: int) -> Turn:
        """The same for every run; for a P that is prime it is one large matrix."""
        generator = torch.Generator().manual_seed(width)
        small = max(size for size in range(1, int(width**0.5) + 1) if width % size == 0)
        draws = (torch.randn(n, n, dtype=torch.float64, generator=generator) for n in (small, width // small))
        return cls(*(torch.linalg.qr(draw).Q for draw in draws))

    def __call__(self, vectors: Tensor) -> Tensor:
        """``vectors`` ``[N, P]`` turned, in their dtype and on their device."""
        rows, columns = (part.to(vectors) for part in (self.rows, self.columns))
        half = torch.mm(vectors.reshape(-1, len(columns)), columns).view(len(vectors), len(rows), len(columns))
        return torch.mm(half.mT.reshape(-1, len(rows)), rows).view(vectors.shape)

    def error(self, dtype: torch.dtype) -> float:
        """How far a turned unit vector in ``dtype`` may be from the exact one.

        With unit roundoff u, a product with an orthogonal ``[n, n]`` that was itself rounded to the dtype is off by at
        most ``(n + 1) u`` of the product of the sizes, whose norm is at most ``sqrt(n)`` for a unit vector; the
        second product carries the error of the first along. Doubled, which covers the higher orders and
        the float64 matrices, that are orthogonal to 1e-15.
        """
        unit = torch.finfo(dtype).eps / 2
        sizes = (len(self.rows), len(self.columns))
        return 2 * unit * sum((size + 2) * math.sqrt(size) for size in sizes) + 1e-13


@dataclass(frozen=True, eq=False)
class Block:
    """Atoms ``start`` to ``stop`` as ``scale * digits``.

    Attributes:
        digits: ``[W, P]`` int8, both filled up with zeros to multiples of ``LANES``.
        scale: the length of one step.
        error: no atom is further than this from its rounded form, in Euclidean distance.
        longest: no rounded atom is longer than this.
    """

    start: int
    stop: int
    digits: Tensor
    scale: float
    error: float
    longest: float


@dataclass(frozen=True, eq=False)
class Queries:
    """Queries in eight bits, each with a scale of its own.

    Attributes:
        digits: ``[N, P]`` int8, both filled up to multiples of ``LANES``.
        scale: ``[N]`` float64, the length of one step.
        error: ``[N]`` float64, the distance of a query from its rounded form, at most.
        length: ``[N]`` float64, the length of a query, at most.
    """

    digits: Tensor
    scale: Tensor
    error: Tensor
    length: Tensor

    def miss(self, block: Block) -> Tensor:
        """By how much a rounded product can miss the exact one, ``[N]`` float64.

        With a hat for what was rounded, ``<q, t> - <q^, t^> = <q - q^, t^> + <q, t - t^>``, and by Cauchy and Schwarz
        that is at most ``|q - q^| |t^| + |q| |t - t^|``. The integer product has no error at all.
        """
        return self.error * block.longest + self.length * block.error


@dataclass(frozen=True, eq=False)
class Int8Atoms:
    """The rounded dictionary on one device, block by block.

    Attributes:
        atoms: what was rounded.
        device: where the products run.
        turn: how atoms and queries are turned before they are rounded, if they are.
        width: atoms in a block, a multiple of ``LANES``.
        held: the first blocks, rounded once; those after them are rounded at every pass.
    """

    atoms: Atoms
    device: torch.device
    turn: Turn | None
    width: int
    held: tuple[Block, ...]

    @classmethod
    def of(cls, atoms: Atoms, device: torch.device, block_size: int | None = None, held: int = HELD_BYTES) -> Int8Atoms:
        """Round ``atoms`` for products on ``device``, and hold at most ``held`` bytes of them."""
        count, size = atoms.shape
        most = BLOCK if device.type == "cpu" else WIDE_BLOCK
        width = min(most, up(block_size or most), up(count))
        sample = atoms.block(0, min(width, count)).float()
        spiky = float(sample.abs().max()) > SPIKY * float(sample.square().mean().sqrt())
        # Reduced precision would cost more than turning gains.
        turn = Turn.of(size) if spiky and not reduced_precision() else None
        coarse = cls(atoms, device, turn, width, ())
        whole = min(-(-count // width), held // (width * up(size)))
        return replace(coarse, held=tuple(coarse._block(number * width) for number in range(whole)))

    def queries(self, query: Tensor) -> Queries:
        """Queries ``[N, P]`` float64, none of them zero, turned and rounded as the atoms are."""
        return round_queries(query if self.turn is None else self.turn(query), self.device)

    def blocks(self) -> Iterator[Block]:
        """All blocks in order."""
        yield from self.held
        for start in range(len(self.held) * self.width, self.atoms.shape[0], self.width):
            yield self._block(start)

    def _block(self, start: int) -> Block:
        stop = min(start + self.width, self.atoms.shape[0])
        atoms, slack = self.atoms.block(start, stop).to(self.device), self.atoms.slack
        if self.turn is not None:
            # Unit rows are at most 1.01 long, and the bound is generous.
            atoms, slack = self.turn(atoms), slack + self.turn.error(atoms.dtype)
        return round_atoms(atoms, start, slack)


def round_atoms(atoms: Tensor, start: int, slack: float) -> Block:
    """Atoms ``[W, P]`` to the nearest steps of a common length.

    ``error`` is computed in the atoms' dtype with unit roundoff u, so it is widened: each entry of ``t - t^`` is off
    by at most 3u of the larger of the two (the rounded scale, its product, the difference), and the length of that by
    (P + 2) u relative.
    """
    size, width = atoms.shape
    unit = torch.finfo(atoms.dtype).eps / 2
    low, high = torch.aminmax(atoms)
    scale = max(float(high), -float(low), torch.finfo(torch.float32).tiny) / LEVELS
    steps = (atoms / scale).round_()
    digits = torch.zeros(up(size), up(width), dtype=torch.int8, device=atoms.device)
    digits[:size, :width] = steps
    error = float(torch.linalg.vector_norm(steps.mul_(scale).sub_(atoms), dim=1).max())
    longest = float(torch.linalg.vector_norm(atoms, dim=1).max()) * (1 + (width + 2) * unit)
    error = error * (1 + (width + 8) * unit) + 8 * unit * longest + slack
    return Block(start, start + size, digits, scale, error, longest + error)


def round_queries(query: Tensor, device: torch.device) -> Queries:
    """Queries ``[N, P]`` float64, none of them zero, to the nearest steps of each one's own length, for ``device``."""
    count, width = query.shape
    scale = query.abs().amax(1, keepdim=True) / LEVELS
    steps = (query / scale).round_().clamp_(-LEVELS, LEVELS)
    digits = torch.zeros(up(count), up(width), dtype=torch.int8, device=query.device)
    digits[:count, :width] = steps
    wider = 1 + 1e-12  # covers float64's rounding, here and in turning
    length = torch.linalg.vector_norm(query, dim=1) * wider
    error = torch.linalg.vector_norm(steps.mul_(scale).sub_(query), dim=1) * wider + 1e-12 * length
    # The sieve works where the products are.
    return Queries(digits.to(device), *(part.to(device) for part in (scale.squeeze(1), error, length)))


def up(size: int) -> int:
    """``size`` filled up to a multiple of ``LANES``."""
    return -(-size // LANES) * LANES


def reduced_precision() -> bool:
    """Whether float32 matrix products may round their factors (TensorFloat-32, bfloat16)."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch refuses to answer when only some of its backends were set
        return True


@cache
def pays(device: torch.device, threads: int) -> bool:
    """Whether this device multiplies 8-bit integers exactly, and faster than float32.

    Asked once, with a small product of the largest digits (kernels without the right instructions saturate, and
    others do not exist). The answer decides how fast a search is, never what it finds.
    """
    try:
        generator = torch.Generator().manual_seed(0)
        left = torch.randint(-LEVELS, LEVELS + 1, (256, 512), generator=generator).to(device)
        right = torch.randint(-LEVELS, LEVELS + 1, (1024, 512), generator=generator).to(device)
        left[:LANES], right[:LANES], right[LANES : 2 * LANES] = LEVELS, LEVELS, -LEVELS
        left8, right8, left32, right32 = left.to(torch.int8), right.to(torch.int8), left.float(), right.float()
        exact = left.cpu().double() @ right.cpu().double().mT
        if not torch.equal(torch._int_mm(left8, right8.mT).cpu().double(), exact):
            return False
        product = torch.empty(256, 1024, device=device)
        taken: dict[bool, float] = {}
        for _ in range(3):
            for integer in (True, False):
                start = time.perf_counter()
                result = torch._int_mm(left8, right8.mT) if integer else torch.matmul(left32, right32.mT, out=product)
                float(result[0, 0])  # waits for a device that works in the background
                took = time.perf_counter() - start
                taken[integer] = min(taken.get(integer, took), took)
        return taken[True] < taken[False]
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
