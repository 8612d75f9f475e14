"""``Int8Atoms``: a dictionary rounded to int8, whose products prove which atoms cannot win.

The README beside this file says why this exists and what it guarantees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from sith_hf.pursuit.atoms import Atoms

# Atoms that share a scale and a matrix product on a CPU: the scores stay in its cache.
BLOCK = 2048
# The same on other devices, where few large products are faster.
WIDE_BLOCK = 2**15
# Numbers are rounded to -127 .. 127 steps.
LEVELS = 127
# Rows and columns are padded with zeros to a multiple of this: scores come in whole groups, and integer kernels need
# multiples of 8 or 16 and more than 16 queries.
LANES = 64
# Bytes of rounded atoms kept in memory (2 GB: 2.8 million atoms of 768 numbers); the rest is rounded in each pass.
HELD_BYTES = 2**31
# Ratio of a block's largest number to its root mean square above which the atoms are rotated first: a few large
# numbers make all steps long. The largest of two million normal numbers is at about 5.2.
OUTLIER_RATIO = 7.0


@dataclass(frozen=True, eq=False)
class Rotation:
    """A rotation that spreads a few large numbers over all: P numbers as a table, its columns mixed, then its rows.

    It preserves inner products, so atoms and queries can both be rotated before rounding.

    Attributes:
        rows, columns: ``[a, a]`` and ``[b, b]`` float64, orthogonal, with ``a * b`` = P.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, width: int) -> Rotation:
        """Make the rotation for width P, the same in every run; for a prime P it is one large matrix."""
        generator = torch.Generator().manual_seed(width)
        small = max(size for size in range(1, int(width**0.5) + 1) if width % size == 0)
        draws = (torch.randn(n, n, dtype=torch.float64, generator=generator) for n in (small, width // small))
        return cls(*(torch.linalg.qr(draw).Q for draw in draws))

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return ``vectors`` ``[N, P]`` rotated, in their dtype and on their device."""
        rows, columns = (part.to(vectors) for part in (self.rows, self.columns))
        half = torch.mm(vectors.reshape(-1, len(columns)), columns).view(len(vectors), len(rows), len(columns))
        return torch.mm(half.mT.reshape(-1, len(rows)), rows).view(vectors.shape)

    def error(self, dtype: torch.dtype) -> float:
        """Return a bound on the distance of a rotated unit vector in ``dtype`` from the exact one.

        With unit roundoff u, a product with an orthogonal ``[n, n]`` that was itself rounded to the dtype is off by at
        most ``(n + 1) u`` of the product of the sizes, whose norm is at most ``sqrt(n)`` for a unit vector; the
        second product carries the error of the first along. The sum is doubled, which covers higher orders and the
        float64 matrices, orthogonal to 1e-15.
        """
        unit = torch.finfo(dtype).eps / 2
        sizes = (len(self.rows), len(self.columns))
        return 2 * unit * sum((size + 2) * math.sqrt(size) for size in sizes) + 1e-13


@dataclass(frozen=True, eq=False)
class Block:
    """Atoms ``start`` to ``stop`` as ``scale * digits``.

    Attributes:
        digits: ``[W, P]`` int8, both sizes padded with zeros to multiples of ``LANES``.
        scale: the length of one step.
        error: the largest Euclidean distance between an atom and its rounded form.
        longest: the largest length of a rounded atom.
    """

    start: int
    stop: int
    digits: Tensor
    scale: float
    error: float
    longest: float


@dataclass(frozen=True, eq=False)
class Queries:
    """Queries rounded to int8, each with its own scale.

    Attributes:
        digits: ``[N, P]`` int8, both sizes padded to multiples of ``LANES``.
        scale: ``[N]`` float64, the length of one step.
        error: ``[N]`` float64, a bound on the distance of a query from its rounded form.
        length: ``[N]`` float64, a bound on the length of a query.
    """

    digits: Tensor
    scale: Tensor
    error: Tensor
    length: Tensor

    def error_bound(self, block: Block) -> Tensor:
        """Return a bound on the error of a rounded product, ``[N]`` float64.

        With a hat for rounded vectors, ``<q, t> - <q^, t^> = <q - q^, t^> + <q, t - t^>``, and by Cauchy and Schwarz
        that is at most ``|q - q^| |t^| + |q| |t - t^|``. The integer product is exact.
        """
        return self.error * block.longest + self.length * block.error


@dataclass(frozen=True, eq=False)
class Int8Atoms:
    """A dictionary rounded to int8, on one device, block by block.

    Attributes:
        atoms: the original atoms.
        device: where the products run.
        rotation: applied to atoms and queries before rounding; None for no rotation.
        width: atoms in a block, a multiple of ``LANES``.
        held: the first blocks, rounded once; later blocks are rounded in each pass.
    """

    atoms: Atoms
    device: torch.device
    rotation: Rotation | None
    width: int
    held: tuple[Block, ...]

    @classmethod
    def of(cls, atoms: Atoms, device: torch.device, block_size: int | None = None, held: int = HELD_BYTES) -> Int8Atoms:
        """Round ``atoms`` for products on ``device`` and keep at most ``held`` bytes of them."""
        count, size = atoms.shape
        most = BLOCK if device.type == "cpu" else WIDE_BLOCK
        width = min(most, round_up(block_size or most), round_up(count))
        sample = atoms.block(0, min(width, count)).float()
        has_outliers = float(sample.abs().max()) > OUTLIER_RATIO * float(sample.square().mean().sqrt())
        # With reduced precision the rotation's error would outweigh its gain.
        rotation = Rotation.of(size) if has_outliers and not reduced_precision() else None
        rounded = cls(atoms, device, rotation, width, ())
        whole = min(-(-count // width), held // (width * round_up(size)))
        return replace(rounded, held=tuple(rounded._block(number * width) for number in range(whole)))

    def queries(self, query: Tensor) -> Queries:
        """Rotate and round queries ``[N, P]`` float64, none of them zero, as the atoms are."""
        return round_queries(query if self.rotation is None else self.rotation(query), self.device)

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks in order."""
        yield from self.held
        for start in range(len(self.held) * self.width, self.atoms.shape[0], self.width):
            yield self._block(start)

    def _block(self, start: int) -> Block:
        stop = min(start + self.width, self.atoms.shape[0])
        atoms, slack = self.atoms.block(start, stop).to(self.device), self.atoms.slack
        if self.rotation is not None:
            # Unit rows are at most 1.01 long; the doubled bound covers that.
            atoms, slack = self.rotation(atoms), slack + self.rotation.error(atoms.dtype)
        return round_atoms(atoms, start, slack)


def round_atoms(atoms: Tensor, start: int, slack: float) -> Block:
    """Round atoms ``[W, P]`` to the nearest multiples of a common step.

    ``error`` is computed in the atoms' dtype with unit roundoff u, so it is increased: each entry of ``t - t^`` is off
    by at most 3u of the larger of the two (the rounded scale, its product, the difference), and the length of that by
    (P + 2) u relative.
    """
    size, width = atoms.shape
    unit = torch.finfo(atoms.dtype).eps / 2
    low, high = torch.aminmax(atoms)
    scale = max(float(high), -float(low), torch.finfo(torch.float32).tiny) / LEVELS
    steps = (atoms / scale).round_()
    digits = torch.zeros(round_up(size), round_up(width), dtype=torch.int8, device=atoms.device)
    digits[:size, :width] = steps
    error = float(torch.linalg.vector_norm(steps.mul_(scale).sub_(atoms), dim=1).max())
    longest = float(torch.linalg.vector_norm(atoms, dim=1).max()) * (1 + (width + 2) * unit)
    error = error * (1 + (width + 8) * unit) + 8 * unit * longest + slack
    return Block(start, start + size, digits, scale, error, longest + error)


def round_queries(query: Tensor, device: torch.device) -> Queries:
    """Round queries ``[N, P]`` float64, none of them zero, each to multiples of its own step, for ``device``."""
    count, width = query.shape
    scale = query.abs().amax(1, keepdim=True) / LEVELS
    steps = (query / scale).round_().clamp_(-LEVELS, LEVELS)
    digits = torch.zeros(round_up(count), round_up(width), dtype=torch.int8, device=query.device)
    digits[:count, :width] = steps
    wider = 1 + 1e-12  # covers float64's rounding, here and in the rotation
    length = torch.linalg.vector_norm(query, dim=1) * wider
    error = torch.linalg.vector_norm(steps.mul_(scale).sub_(query), dim=1) * wider + 1e-12 * length
    return Queries(digits.to(device), *(part.to(device) for part in (scale.squeeze(1), error, length)))


def round_up(size: int) -> int:
    """Round ``size`` up to a multiple of ``LANES``."""
    return -(-size // LANES) * LANES


def reduced_precision() -> bool:
    """Return whether float32 matrix products may round their factors to TensorFloat-32 or bfloat16."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch raises when only some of its backends were set
        return True


@cache
def int8_is_faster(device: torch.device, threads: int) -> bool:
    """Return whether a device multiplies int8 matrices exactly and faster than float32.

    Measured once, with a small product that includes the largest digits: some kernels saturate, some are missing. The
    answer affects the speed of a search, never its result.
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
                float(result[0, 0])  # waits for asynchronous devices
                took = time.perf_counter() - start
                taken[integer] = min(taken.get(integer, took), took)
        return taken[True] < taken[False]
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
