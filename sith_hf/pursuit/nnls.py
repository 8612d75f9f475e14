"""Non-negative least squares for many small problems at once, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from sith_hf.errors import InputError, SithError

EPS = torch.finfo(torch.float64).eps
TINY = torch.finfo(torch.float64).tiny


def nnls(gram: Tensor, rhs: Tensor, start: Tensor | None = None, *, noise: float = 0.0) -> Tensor:
    """Minimise ``c @ gram @ c / 2 - rhs @ c`` over c >= 0 for every problem of a batch.

    With ``gram = A A^T`` and ``rhs = A x`` this is ``min ||x - c A||``, the refit of Method, sec. 4 (atoms are the
    rows of A). The solver is the active-set method of Lawson and Hanson ("Solving Least Squares Problems", 1974,
    ch. 23), run over the whole batch at once. It ends after finitely many exact solves, so the result satisfies the
    optimality conditions up to rounding, with ``g = rhs - gram @ c``::

        c >= 0,    g <= 0,    c * g == 0

    Of linearly dependent columns some keep a weight of exactly zero (of two equal ones, the later); all minimisers have
    the same residual. A column closer than about 1e-7 of its length to the span of the others counts as dependent,
    which a Gram matrix cannot resolve.

    Args:
        gram: ``[N, K, K]`` float64, symmetric positive semidefinite.
        rhs: ``[N, K]`` float64.
        start: ``[N, K]`` float64, >= 0, the initial weights; the minimiser for all but one column is a good choice.
        noise: the distance from the span of the others, for columns of length one, below which a column counts as
            dependent. Columns rounded to float32 need it: a dependence lost in rounding would get huge weights.

    Returns:
        ``[N, K]`` float64, non-negative.

    Raises:
        InputError: an entry that is not finite.
        SithError: no minimiser within 20 (K + 1) solves; not known to happen for a Gram matrix.
    """
    if not bool(torch.isfinite(gram).all() & torch.isfinite(rhs).all()):
        raise InputError("gram and rhs must be finite; got NaN or infinity")
    count, width = rhs.shape
    # With columns of length one, the same thresholds apply to the pivots and gradients of every problem.
    length = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    usable = length > 0
    length = torch.where(usable, length, 1.0)
    gram = gram / (length.unsqueeze(1) * length.unsqueeze(2))
    rhs = rhs / length

    result = torch.zeros_like(rhs)
    live = torch.arange(count, device=rhs.device)
    weight = torch.zeros_like(rhs) if start is None else start * length * usable
    state = _State(gram, rhs, usable, weight, max(8 * width * EPS, noise**2))
    for _ in range(20 * (width + 1)):
        done = state.admit()
        result[live[done]] = state.weight[done]
        live = live[~done]
        if len(live) == 0:
            return result / length
        state.keep(~done)
        state.solve()
    raise SithError(
        f"non-negative least squares did not converge for {len(live)} of {count} problems of {width} columns "
        f"after {20 * (width + 1)} solves; check that every Gram matrix is symmetric and positive semidefinite"
    )


class _State:
    """The unfinished problems: their weights, and which columns are free to be positive."""

    def __init__(self, gram: Tensor, rhs: Tensor, usable: Tensor, weight: Tensor, least_pivot: float) -> None:
        self.gram, self.rhs, self.weight = gram, rhs, weight
        self.least_pivot = least_pivot
        self.free = weight > 0
        self.barred = ~usable
        self.entering = torch.full((len(rhs),), -1, device=rhs.device)
        gradient, noise = self._gradient()
        self.settled = (gradient.abs() * self.free).amax(1) <= noise

    def keep(self, mask: Tensor) -> None:
        if not bool(mask.all()):
            for name in ("gram", "rhs", "weight", "free", "barred", "entering", "settled"):
                setattr(self, name, getattr(self, name)[mask])

    def _gradient(self) -> tuple[Tensor, Tensor]:
        product = (self.gram @ self.weight.unsqueeze(2)).squeeze(2)
        size = self.rhs.abs() + (self.gram.abs() @ self.weight.unsqueeze(2)).squeeze(2)
        return self.rhs - product, 4 * self.rhs.shape[1] * EPS * size.amax(1)

    def admit(self) -> Tensor:
        """Free the column of steepest descent where the free ones are at their minimum; return who is finished."""
        gradient, noise = self._gradient()
        slope = gradient.masked_fill(self.free | self.barred, -torch.inf)
        steepest = slope.amax(1)
        opening = self.settled & (steepest > noise)
        # The first of equally steep columns, up to rounding.
        column = (slope >= (steepest - noise).unsqueeze(1)).int().argmax(1)
        self.entering = torch.where(opening, column, -1)
        self.free[opening, column[opening]] = True
        return self.settled & ~opening

    def solve(self) -> None:
        """Step towards the minimum over the free columns until a weight would become negative."""
        pair = self.free.unsqueeze(1) & self.free.unsqueeze(2)
        system = torch.where(pair, self.gram, 0.0)
        system.diagonal(dim1=1, dim2=2).add_((~self.free).double())
        factor, failed = torch.linalg.cholesky_ex(system)
        pivot = factor.diagonal(dim1=1, dim2=2).square()
        dependent = ~(pivot > self.least_pivot)
        broken = (failed > 0) | dependent.any(1)
        target = torch.cholesky_solve((self.rhs * self.free).unsqueeze(2), factor).squeeze(2)
        target = torch.where(broken.unsqueeze(1), self.weight, target)

        falling = self.free & (target <= 0) & ~broken.unsqueeze(1)
        reach = torch.where(falling, self.weight / (self.weight - target).clamp(min=TINY), 1.0)
        step = reach.amin(1, keepdim=True)
        self.weight = torch.where(self.free, self.weight + step * (target - self.weight), 0.0)
        dropped = falling & (reach <= step)
        self._drop(dropped)
        self.settled = ~falling.any(1) & ~broken
        if bool(broken.any()):
            self._bar(broken, failed, dependent)

    def _drop(self, dropped: Tensor) -> None:
        self.free = self.free & ~dropped
        self.weight = self.weight.masked_fill(dropped, 0.0).clamp(min=0)
        position = torch.arange(self.rhs.shape[1], device=self.rhs.device)
        returned = dropped & (position == self.entering.unsqueeze(1))
        # A column that leaves may end a dependence: retry the barred columns, except the one just tried.
        left = (dropped & ~returned).any(1, keepdim=True)
        unusable = self.gram.diagonal(dim1=1, dim2=2) == 0
        self.barred = torch.where(left, unusable, self.barred) | returned

    def _bar(self, broken: Tensor, failed: Tensor, dependent: Tensor) -> None:
        # The free columns are dependent: because of the one that entered, or from the start.
        first = torch.where(failed > 0, failed.long() - 1, dependent.int().argmax(1))
        column = torch.where(self.entering >= 0, self.entering, first)[broken]
        row = broken.nonzero().squeeze(1)
        self.free[row, column] = False
        self.weight[row, column] = 0.0
        self.barred[row, column] = True
        # Without the column that entered, the weights are at their previous minimum.
        self.settled[row] = self.entering[row] >= 0
