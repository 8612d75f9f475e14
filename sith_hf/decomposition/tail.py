"""The upper tail of a null sample: a smooth p-value where few values of the sample are left to count.

Two seeds of random directions must find about the same poles. A counted p-value of 0.001 hangs on four of 4,000 values,
and one from the spread of the largest twentieth still on its 200. Fidelities are sums over a few concepts, so their
distribution is nearly normal: the normal score of a fidelity, the z with the same probability above, is nearly a
straight line in it. :func:`normal_tail` fits a parabola to the upper three quarters of a sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST = 800
"""The fewest null values for a fitted tail."""

# Above this part of a sample values are counted; below it the fit continues.
COUNTED = 0.1
# The part of a sample that is fitted; of the rest only its number counts.
FITTED = 0.75
# A fitted tail is trusted down to this part of the smallest counted p-value.
REACH = 0.01
STEPS, TOLERANCE, RIDGE = 50, 1e-10, 1e-9


def normal_tail(asked: Tensor, ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the p-values of values in the upper tenth of samples, from a fitted tail.

    The model: ``a + b x + c x^2`` of a null value x is standard normal. Its parameters have the largest likelihood of
    the upper three quarters of the sample, of which the lower quarter is known only to lie below (a censored sample);
    the likelihood is concave, so Newton's method finds it. Where the parabola would fall, it stays at its top.

    Args:
        asked: ``[B, Q]`` float64.
        ordered: ``[B, N]`` float64, ascending; N at least ``FEWEST``.

    Returns:
        the p-values, and where they hold, both ``[B, Q]``; they hold nowhere in a sample that is too tied for a fit.
    """
    count = ordered.shape[-1]
    above, kept = int(COUNTED * count), int(FITTED * count)
    start, least = ordered[:, count - above - 1, None], ordered[:, count - kept - 1, None]
    middle = ordered.median(dim=-1, keepdim=True).values
    scale = ordered.std(dim=-1, keepdim=True)
    fits = (scale > 0) & (ordered[:, -1:] > start) & (start > middle)
    scale = torch.where(fits, scale, 1.0)
    line = _fit((ordered[:, count - kept :] - middle) / scale, (least - middle) / scale, count - kept)
    scores = [_score(line, (values - middle) / scale) for values in (asked, start)]
    tail, whole = (torch.special.log_ndtr(-score) for score in scores)
    p = (1 + above) / (1 + count) * torch.exp(tail - whole)
    return p.clamp(min=REACH / (1 + count)), fits & (asked > start) & torch.isfinite(p)


def exponential_tail(asked: Tensor, ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the p-values of values in the upper twentieth of samples, from an exponential tail of the same mean.

    The generalised Pareto tail of shape 0 (Knijnenburg et al., 2009, "Fewer permutations, more accurate P-values", with
    a free shape). Cosines have lighter tails, so these p-values are too large rather than too small. Arguments and
    result are those of :func:`normal_tail`.
    """
    count = ordered.shape[-1]
    above = int(0.05 * count)
    start = ordered[:, count - above - 1, None]
    scale = (ordered[:, count - above :] - start).mean(dim=-1, keepdim=True)
    fitted = (1 + above) / (1 + count) * torch.exp(-(asked - start) / scale.clamp(min=torch.finfo(torch.float64).tiny))
    # A tail of ties has no scale.
    return fitted.clamp(min=REACH / (1 + count)), (scale > 0) & (asked > start)


def _score(line: Tensor, x: Tensor) -> Tensor:
    """Return the normal score of values ``[B, Q]`` under parameters ``[B, 3]``, never falling."""
    a, b, c = (part.unsqueeze(-1) for part in line.unbind(-1))
    top = torch.where(c < 0, -b / (2 * c), math.inf)
    x = torch.minimum(x, top)
    return a + b * x + c * x**2


def _fit(x: Tensor, least: Tensor, below: int) -> Tensor:
    """Return the most likely parameters ``[B, 3]`` for values ``[B, k]`` above ``least`` and others below it."""
    return torch.stack([_fit_one(values, edge, below) for values, edge in zip(x, least.squeeze(-1), strict=True)])


def _fit_one(x: Tensor, least: Tensor, below: int) -> Tensor:
    basis = torch.stack([torch.ones_like(x), x, x**2], dim=-1)
    slope = torch.stack([torch.zeros_like(x), torch.ones_like(x), 2 * x], dim=-1)
    edge = torch.stack([torch.ones_like(least), least, least**2])

    def likelihood(line: Tensor) -> float:
        rise = slope @ line
        if bool((rise <= 0).any()):
            return -math.inf
        inside = rise.log().sum() - (basis @ line).square().sum() / 2
        return float(inside + below * torch.special.log_ndtr(edge @ line))

    line = torch.tensor([0.0, 1.0, 0.0], dtype=x.dtype)
    best = likelihood(line)
    for _ in range(STEPS):
        at_edge, ratio = edge @ line, slope / (slope @ line).unsqueeze(-1)
        mills = torch.exp(-(at_edge**2) / 2 - torch.special.log_ndtr(at_edge)) / math.sqrt(2 * math.pi)
        gradient = ratio.sum(dim=0) - basis.T @ (basis @ line) + below * mills * edge
        curvature = basis.T @ basis + ratio.T @ ratio + below * mills * (at_edge + mills) * torch.outer(edge, edge)
        # A sample of few different values does not determine a parabola.
        step = torch.linalg.solve(curvature + RIDGE * len(x) * torch.eye(3, dtype=x.dtype), gradient)
        size, found = 1.0, likelihood(line + step)
        while found < best and size > 1e-6:
            size /= 2
            found = likelihood(line + size * step)
        if found - best < TOLERANCE * len(x):
            break
        line, best = line + size * step, found
    return line
