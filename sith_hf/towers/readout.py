"""``Readout``: how a direction of a residual stream reaches the joint space of images and texts, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize, rms_norm

from sith_hf.core.short_repr import short_repr


@short_repr
@dataclass(frozen=True, eq=False)
class Norm:
    """The last norm of a residual stream.

    Attributes:
        weight: the gain, ``[D]``.
        bias: the offset, ``[D]``; None for an RMS norm.
        eps: the epsilon.
    """

    weight: Tensor
    bias: Tensor | None
    eps: float

    @property
    def centres(self) -> bool:
        """Whether it removes the mean, as a layer norm does and an RMS norm does not."""
        return self.bias is not None

    def __call__(self, directions: Tensor) -> Tensor:
        """Return the norm of ``[..., D]``, in its dtype."""
        size, weight = (self.weight.shape[0],), self.weight.to(directions)
        if self.bias is None:
            return rms_norm(directions, size, weight, self.eps)
        return layer_norm(directions, size, weight, self.bias.to(directions), self.eps)


@short_repr
@dataclass(frozen=True, eq=False)
class Readout:
    """The way from a residual stream to the joint space: ``after(matrix @ norm(x) + bias)`` (Method, sec. 3).

    Attributes:
        name: the parts of the model on the way, as an artifact names them, such as
            ``"post_layernorm, visual_projection"``.
        matrix: the linear part, ``[P, D]``: W_P of CLIP.
        norm: the norm before it; None if there is none.
        bias: ``[P]``, added after the matrix; None for none.
        back: the way back, ``[D, P]``, where the pseudo-inverse of the matrix would amplify noise; else None.
        after: what follows and is not linear, a map of ``[..., P]``; None for nothing.
        approximation: how the way differs from the one of a real input, in words; empty if it is the same.
        tensors: the tensors on the way by name on disk, for fingerprints.
        outside: names among them that may come from another checkpoint, a companion.
    """

    name: str
    matrix: Tensor
    norm: Norm | None
    bias: Tensor | None = None
    back: Tensor | None = None
    after: Callable[[Tensor], Tensor] | None = None
    approximation: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    outside: frozenset[str] = frozenset()

    @property
    def exact(self) -> bool:
        """Whether a residual stream that is one direction takes this very way."""
        return not self.approximation

    @property
    def title(self) -> str:
        """The name with the approximation, for artifacts and cards."""
        return f"{self.name} ({self.approximation or 'exact'}){'' if self.back is None else ', back by the transpose'}"

    @property
    def joint_size(self) -> int:
        """The size of the joint space, P."""
        return int(self.matrix.shape[0])

    def to_joint(self, directions: Tensor) -> Tensor:
        """Map directions ``[..., D]``, float32 or float64, to unit vectors ``[..., P]`` of the same dtype."""
        normed = directions if self.norm is None else self.norm(directions)
        joint = normed @ self.matrix.to(directions).T
        if self.bias is not None:
            joint = joint + self.bias.to(joint)
        return normalize(joint if self.after is None else self.after(joint), dim=-1)

    def from_joint(self, joint: Tensor) -> Tensor:
        """Map points ``[..., P]`` back to unit vectors ``[..., D]`` by ``back`` or the pseudo-inverse."""
        inverse = self._inverse if self.back is None else self.back
        return normalize(joint @ inverse.to(joint).T, dim=-1)

    def projected_norm(self, directions: Tensor) -> Tensor:
        """Return the highest possible fidelity of each unit direction, ``[...]``.

        This is the norm of its part in the row space of the matrix: the joint space does not contain the rest. With a
        way back of its own it is the fidelity of the direction's own point, a perfect explanation.
        """
        if self.back is not None:
            return (self.from_joint(self.to_joint(directions)) * directions).sum(dim=-1)
        norm: Tensor = torch.linalg.vector_norm(directions.double() @ self._readable.to(directions.device).T, dim=-1)
        return norm.to(directions)

    @cached_property
    def linear(self) -> Tensor:
        """The linear part, ``[P, D]`` float64: from the residual stream to the embedding, times its deviation."""
        matrix = self.matrix.cpu().double()
        if self.norm is None:
            return matrix
        matrix = matrix * self.norm.weight.cpu().double()
        return matrix - matrix.mean(dim=1, keepdim=True) if self.norm.centres else matrix

    @cached_property
    def _inverse(self) -> Tensor:
        inverse: Tensor = torch.linalg.pinv(self.matrix.double())
        return inverse

    @cached_property
    def _readable(self) -> Tensor:
        """An orthonormal basis of the matrix's row space, one direction per row."""
        matrix = self.matrix.double()
        _, values, rows = torch.linalg.svd(matrix, full_matrices=False)
        basis: Tensor = rows[values > values.max() * max(matrix.shape) * torch.finfo(torch.float64).eps]
        return basis
