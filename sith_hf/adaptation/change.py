"""The change of a layer's value-output matrices as thin products, and its parts (Method, sec. 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.adaptation.blocks import blocks, ends
from sith_hf.adaptation.head_change import HeadChange
from sith_hf.decomposition import HeadSVD, factored_svd
from sith_hf.towers import AttentionLayer, HeadFactors

# Singular values below this part of the largest are rounding, and their vectors are no part of the head's span.
NUMERICAL_RANK = 1e-6
# The leading subspace holds at least this part of the base's energy.
LEADING = 0.5


def change_factors(base: HeadFactors, tuned: HeadFactors) -> tuple[Tensor, Tensor]:
    """Return M' - M of each head as a product of two factors, ``[H, D, 2d]`` and ``[H, 2d, D]``.

    The product is zero exactly where the factors are equal.
    """
    write = torch.cat([tuned.write, tuned.write - base.write], dim=2)
    read = torch.cat([tuned.read - base.read, base.read], dim=1)
    if write.shape[2] > write.shape[1]:  # one head: the product is smaller than its factors
        return write @ read, torch.eye(write.shape[1], dtype=write.dtype).expand(len(write), -1, -1)
    return write, read


def change_svd(base: AttentionLayer, tuned: AttentionLayer, num_heads: int) -> HeadSVD:
    """Return the singular vectors of M' - M of each head of a layer, float64, at most 2d of each; the change's own."""
    write, read = change_factors(base.factors(num_heads), tuned.factors(num_heads))
    return factored_svd(write.cpu(), read.cpu())


@dataclass(frozen=True, eq=False)
class Span:
    """The singular vectors of the base's or the tuned head up to its numerical rank r.

    Attributes:
        values: ``[r]``.
        write, read: ``[r, D]``, orthonormal rows.
    """

    values: list[float]
    write: Tensor
    read: Tensor


def layer_changes(
    number: int, base: AttentionLayer, tuned: AttentionLayer, num_heads: int, *, close: float, directions: int
) -> list[HeadChange]:
    """Compare the heads of one layer; float64 throughout.

    Args:
        number: of the layer.
        base, tuned: the layer in the two towers.
        num_heads: H.
        close: the largest relative distance of singular values in a block.
        directions: how many leading directions of each change to report.
    """
    ours, theirs = base.factors(num_heads), tuned.factors(num_heads)
    write, read = change_factors(ours, theirs)
    changes = factored_svd(write.cpu(), read.cpu()).values
    before, after = _spans(ours), _spans(theirs)
    noise = _rounding(ours, theirs, tuned)
    found = []
    for head in range(num_heads):
        was, now = before[head], after[head]
        norm, floor = float(changes[head].norm()), float(noise[head])
        same = norm <= floor
        k = leading(was.values, now.values, close)
        parts, angles = (0.0, 0.0, 0.0), ((0.0,) * k, (0.0,) * k)
        if not same:
            parts = change_parts(write[head].cpu(), read[head].cpu(), was, close)
            angles = (principal_angles(was.write[:k], now.write[:k]), principal_angles(was.read[:k], now.read[:k]))
        kept = () if same else [float(s) for s in changes[head, :directions] if s > floor]
        found.append(
            HeadChange(
                number,
                head,
                base_norm=float(torch.tensor(was.values, dtype=torch.float64).norm()),
                change_norm=0.0 if same else norm,
                rounding=floor,
                reweighting=parts[0],
                rotation=parts[1],
                new=parts[2],
                leading=k,
                write_angles=angles[0],
                read_angles=angles[1],
                directions=tuple((s / norm) ** 2 for s in kept),
            )
        )
    return found


def change_parts(write: Tensor, read: Tensor, base: Span, close: float) -> tuple[float, float, float]:
    """Split the energy of one change ``write @ read`` into shares: reweighting, rotation, new directions.

    Args:
        write, read: ``[D, n]`` and ``[n, D]``.
        base: the base's singular vectors.
        close: the largest relative distance of singular values in a block.
    """
    u, v = base.write, base.read
    inner_write, inner_read = u @ write, read @ v.T
    core = inner_write @ inner_read
    symmetric = torch.zeros_like(core)
    for start, stop in blocks(base.values, close):
        block = core[start:stop, start:stop]
        symmetric[start:stop, start:stop] = (block + block.T) / 2
    # Not by subtraction: a small part would be lost in the rounding of the large ones.
    new_write = _norm(write - u.T @ inner_write, read)
    new_read = _norm(inner_write, read - inner_read @ v)
    energies = [float(symmetric.norm()) ** 2, float((core - symmetric).norm()) ** 2, new_write**2 + new_read**2]
    total = sum(energies)
    return (energies[0] / total, energies[1] / total, energies[2] / total)


def leading(base: list[float], tuned: list[float], close: float) -> int:
    """Return the dimension of the leading subspaces to compare: a block of close values is not cut in either.

    It is the smallest that holds half of the base's energy; the whole rank where no smaller one is a subspace of both.
    """
    most = min(len(base), len(tuned))
    total, sum_ = sum(s**2 for s in base), 0.0
    common = ends(base, close) & ends(tuned, close)
    for k in range(1, most):
        sum_ += base[k - 1] ** 2
        if sum_ >= LEADING * total and k in common:
            return k
    return most


def principal_angles(one: Tensor, other: Tensor) -> tuple[float, ...]:
    """Return the principal angles of two subspaces in degrees, ascending.

    Small angles come from their sines, large ones from their cosines, so that both are exact (Björck and Golub, 1973,
    "Numerical methods for computing angles between linear subspaces").

    Args:
        one, other: ``[k, D]``, orthonormal rows.
    """
    if not len(one):
        return ()
    product = other @ one.T
    cosines = torch.linalg.svdvals(product).clamp(max=1)
    sines = torch.linalg.svdvals(other - product @ one).flip(0)[: len(cosines)].clamp(max=1)
    return tuple(torch.where(cosines**2 > 0.5, torch.asin(sines), torch.acos(cosines)).rad2deg().tolist())


def _spans(factors: HeadFactors) -> list[Span]:
    svd = factored_svd(factors.write.cpu(), factors.read.cpu())
    found = []
    for values, write, read in zip(svd.values, svd.write, svd.read, strict=True):
        rank = int((values > NUMERICAL_RANK * values[0]).sum())
        found.append(Span(values[:rank].tolist(), write[:rank], read[:rank]))
    return found


def _rounding(base: HeadFactors, tuned: HeadFactors, layer: AttentionLayer) -> Tensor:
    """Return the norm that rounding adds to a product of factors of a dtype, ``[H]``, with a margin of about three.

    Entries of B and A are off by up to half an epsilon of their own size, independently, so the squared norm of the
    error of B A is in the order of eps^2 times the sum over k of ||B[:, k]||^2 ||A[k, :]||^2.
    """
    sizes = [(factors.write.norm(dim=1) * factors.read.norm(dim=2)).norm(dim=1) for factors in (base, tuned)]
    eps = max(torch.finfo(tensor.dtype).eps for tensor in (layer.value_weight, layer.out_weight))
    # Products that were computed in float32 before they were rounded have its errors too.
    return (eps + 15 * min(eps, torch.finfo(torch.float32).eps)) * torch.maximum(*sizes)


def _norm(write: Tensor, read: Tensor) -> float:
    """Return the Frobenius norm of ``write @ read`` from thin factors ``[m, n]`` and ``[n, D]``."""
    left = torch.linalg.qr(write, mode="r").R
    right = torch.linalg.qr(read.T, mode="r").R
    return float((left @ right.T).norm())
