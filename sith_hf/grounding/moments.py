"""Sums over images of coefficients and embeddings: enough for the correlation with any concept.

The similarity of an image e to a concept t is the product e t, so its covariance with a coefficient a is that of a and
e, times t; its variance is that of e, between t and t. So the sums do not depend on the number of images or concepts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sith_hf.files import Part

# A deviation below this part of the values' own size is rounding of float32.
_CONSTANT = 1e-6


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over n images of the coefficients a ``[N]`` and embeddings e ``[P]``, float64.

    Attributes:
        count: n, ``[]`` int64.
        a, aa: ``[N]``, of a and its square.
        e: ``[P]``, of e.
        ee: ``[P, P]``, of e e^T.
        ae: ``[N, P]``, of a e^T.
    """

    count: Tensor
    a: Tensor
    aa: Tensor
    e: Tensor
    ee: Tensor
    ae: Tensor

    @classmethod
    def of(cls, coefficients: Tensor, embeddings: Tensor) -> Moments:
        """Sum over images: ``[n, N]`` and ``[n, P]``."""
        a, e = coefficients.double(), embeddings.double()
        return cls(torch.tensor(len(a)), a.sum(0), a.square().sum(0), e.sum(0), e.T @ e, a.T @ e)

    @classmethod
    def from_part(cls, part: Part) -> Moments:
        """Read what :meth:`to_part` returns."""
        return cls(**{name: part[name] for name in cls.__dataclass_fields__})

    def to_part(self) -> Part:
        """Return the sums by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __add__(self, other: Moments) -> Moments:
        return Moments(**{name: value + other.to_part()[name] for name, value in self.to_part().items()})

    def rows(self, vectors: slice) -> Moments:
        """Return the sums of some of the coefficients."""
        return replace(self, a=self.a[vectors], aa=self.aa[vectors], ae=self.ae[vectors])

    def deviation(self) -> Tensor:
        """Return the standard deviation of each coefficient, ``[N]``; 0 if it is the same on every image."""
        square = self.aa / self.count
        variance = (square - (self.a / self.count).square()).clamp(min=0)
        return torch.where(variance > _CONSTANT**2 * square, variance, 0).sqrt()

    def correlation(self, concepts: Tensor) -> Tensor:
        """Return the correlation of each coefficient with the similarity to concepts ``[M, P]``, ``[N, M]`` float64.

        It is 0 where a coefficient or a similarity is the same on every image.
        """
        t, mean = concepts.double(), self.e / self.count
        covariance = self.ae / self.count - torch.outer(self.a / self.count, mean)
        spread = ((t @ (self.ee / self.count - torch.outer(mean, mean))) * t).sum(dim=-1)
        own, theirs = self.deviation(), torch.where(spread > _CONSTANT**2, spread, 0).sqrt()
        found = (covariance @ t.T) / (own.unsqueeze(-1) * theirs)
        found = torch.where((own.unsqueeze(-1) > 0) & (theirs > 0), found, 0)
        return found.clamp(-1, 1)
