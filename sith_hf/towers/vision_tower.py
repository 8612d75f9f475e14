"""``VisionTower``: the tensors that the method reads, and the maps between residual stream and joint space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize

from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.validation import whole_numbers
from sith_hf.errors import InputError
from sith_hf.towers.tensor_names import LAYER_PARTS, PROJECTION, tensor_key


@dataclass(frozen=True, eq=False)
class HeadFactors:
    """The value-output matrices of a layer's H heads as thin products ``write[h] @ read[h]`` (Method, sec. 1).

    Attributes:
        write: B, ``[H, D, d]``.
        read: A, ``[H, d, D]``.
        constant: ``[H, d]``, the part of the values that does not depend on the input; edits keep its output.
    """

    write: Tensor
    read: Tensor
    constant: Tensor


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """The tensors of one attention layer that decomposing and editing read; references into the model, read-only.

    Attributes:
        norm_weight, norm_bias: ``layer_norm1``, ``[D]`` each.
        value_weight, value_bias: ``v_proj``, ``[D, D]`` with rows grouped by head, and ``[D]``.
        out_weight, out_bias: ``out_proj``, ``[D, D]`` with columns grouped by head, and ``[D]``.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor

    def factors(
        self, num_heads: int, *, fold: bool = True, centre: bool = True, dtype: torch.dtype = torch.float64
    ) -> HeadFactors:
        """Return the heads' factors in new tensors (Method, sec. 1).

        Args:
            num_heads: H.
            fold: multiply the layer norm's gain into the read side, and its offset into the constant.
            centre: drop the all-ones direction, which every layer norm removes: from the write side, and with
                ``fold`` also from the read side.
            dtype: of the result.
        """
        size = self.out_weight.shape[0]
        head_size = size // num_heads
        read = self.value_weight.to(dtype).reshape(num_heads, head_size, size)
        write = self.out_weight.to(dtype).reshape(size, num_heads, head_size).permute(1, 0, 2)
        constant = self.value_bias.to(dtype).reshape(num_heads, head_size)
        if fold:
            constant = constant + read @ self.norm_bias.to(dtype)
            read = read * self.norm_weight.to(dtype)
        if centre:
            write = write - write.mean(dim=1, keepdim=True)
            if fold:
                read = read - read.mean(dim=2, keepdim=True)
        return HeadFactors(write=write, read=read, constant=constant)

    def sha256(self, layer: int) -> dict[str, str]:
        """Return fingerprints by name on disk; ``layer`` is the number of this layer."""
        return {tensor_key(layer, part): tensor_sha256(getattr(self, part)) for part in LAYER_PARTS}


@dataclass(frozen=True, eq=False)
class VisionTower:
    """A CLIP vision tower as seen by the method.

    Attributes:
        num_heads: H, attention heads per layer.
        layers: the L attention layers, first to last.
        post_norm_weight, post_norm_bias: ``post_layernorm``, ``[D]`` each.
        post_norm_eps: its epsilon.
        projection: W_P, ``[P, D]``; None for a vision-only checkpoint without a companion.
        settings: the settings of the model that are no tensors (:func:`sith_hf.towers.model_settings.vision_settings`).
    """

    num_heads: int
    layers: tuple[AttentionLayer, ...]
    post_norm_weight: Tensor
    post_norm_bias: Tensor
    post_norm_eps: float
    projection: Tensor | None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hidden_size(self) -> int:
        """The width of the residual stream, D."""
        return int(self.post_norm_weight.shape[0])

    def resolve_layers(self, layers: Iterable[int] | None) -> tuple[int, ...]:
        """Return layer numbers ascending and non-negative; negative ones count from the last, None means all.

        Raises:
            InputError: no layer, one that does not exist, or one twice.
        """
        count = len(self.layers)
        if layers is None:
            return tuple(range(count))
        wanted = whole_numbers(layers, "layers")
        for layer in wanted:
            if not -count <= layer < count:
                raise InputError(
                    f"layer {layer} does not exist: this tower has layers 0-{count - 1}. Use -1 for the last"
                )
        resolved = sorted(layer % count for layer in wanted)
        if not resolved:
            raise InputError("layers is empty: name a layer, or leave layers out for all")
        if len(set(resolved)) != len(resolved):
            raise InputError(f"layers {wanted} contain a layer twice (-1 is layer {count - 1}): name each layer once")
        return tuple(resolved)

    def require_projection(self) -> Tensor:
        """Return W_P ``[P, D]``. Raises InputError for a vision-only tower without one."""
        if self.projection is None:
            raise InputError(
                "this checkpoint is a vision tower without a projection into the joint space: name its CLIP model with "
                'text_model="openai/clip-vit-base-patch32" (--text-model on the command line)'
            )
        return self.projection

    def to_joint(self, directions: Tensor, image_mean: Tensor | None = None) -> Tensor:
        """Map directions of the residual stream to unit vectors of the joint space (Method, sec. 3).

        Args:
            directions: ``[..., D]``, float32 or float64.
            image_mean: mu, ``[P]``, the mean of normalised image embeddings; zero when None.

        Returns:
            ``[..., P]`` of the same dtype.
        """
        projection = self.require_projection().to(directions)
        weight, bias = self.post_norm_weight.to(directions), self.post_norm_bias.to(directions)
        normed = layer_norm(directions, (self.hidden_size,), weight, bias, self.post_norm_eps)
        joint = normalize(normed @ projection.T, dim=-1)
        return joint if image_mean is None else normalize(joint - check_mean(image_mean, projection).to(joint), dim=-1)

    def from_joint(self, joint: Tensor, image_mean: Tensor | None = None) -> Tensor:
        """Map points of the joint space back to unit vectors of the residual stream (Method, sec. 5).

        Args:
            joint: ``[..., P]``, float32 or float64.
            image_mean: mu, ``[P]``, as for :meth:`to_joint`.

        Returns:
            ``[..., D]`` of the same dtype; zero for a zero point.
        """
        projection = self.require_projection()
        joint = normalize(joint, dim=-1)
        if image_mean is not None:
            joint = normalize(joint + check_mean(image_mean, projection).to(joint), dim=-1)
        return normalize(joint @ self._inverse.to(joint).T, dim=-1)

    def projected_norm(self, directions: Tensor) -> Tensor:
        """Return the norm of each unit direction's part in the row space of the projection, ``[...]``.

        This is the highest possible fidelity: the joint space does not contain the rest.
        """
        rows = self._readable.to(directions.device)
        norm: Tensor = torch.linalg.vector_norm(directions.double() @ rows.T, dim=-1)
        return norm.to(directions)

    @cached_property
    def _inverse(self) -> Tensor:
        inverse: Tensor = torch.linalg.pinv(self.require_projection().double())
        return inverse

    @cached_property
    def _readable(self) -> Tensor:
        """An orthonormal basis of the projection's row space, one direction per row."""
        projection = self.require_projection().double()
        _, values, rows = torch.linalg.svd(projection, full_matrices=False)
        basis: Tensor = rows[values > values.max() * max(projection.shape) * torch.finfo(torch.float64).eps]
        return basis

    def sha256(self, layers: Iterable[int]) -> dict[str, str]:
        """Return fingerprints of every tensor that a decomposition of ``layers`` reads, by name on disk."""
        prints = {
            "vision_model.post_layernorm.weight": tensor_sha256(self.post_norm_weight),
            "vision_model.post_layernorm.bias": tensor_sha256(self.post_norm_bias),
        }
        if self.projection is not None:
            prints[PROJECTION] = tensor_sha256(self.projection)
        for layer in layers:
            prints |= self.layers[layer].sha256(layer)
        return prints

    def check(self, base: BaseRef, layers: Iterable[int], where: str = "this model") -> None:
        """Check that ``base`` is of this tower: the tensors of ``layers``, and the settings.

        Raises:
            BaseMismatch: it is of another tower.
            InputError: it has a projection, and this tower has none.
        """
        if PROJECTION in base.sha256:
            self.require_projection()
        base.check(self.sha256(layers), where, self.settings)


def check_mean(image_mean: Tensor, projection: Tensor) -> Tensor:
    """Return ``image_mean``. Raises InputError unless it is a finite ``[P]`` shorter than 1."""
    size = projection.shape[0]
    if not isinstance(image_mean, Tensor) or not image_mean.is_floating_point():
        raise InputError(f"image_mean must be a floating-point tensor; got {type(image_mean).__name__}")
    if image_mean.shape != (size,):
        raise InputError(f"image_mean must be a vector of length {size}; got shape {list(image_mean.shape)}")
    if not torch.isfinite(image_mean).all():
        raise InputError("image_mean must be finite; got NaN or infinity")
    if image_mean.norm() >= 1:
        raise InputError("image_mean must be shorter than 1, as a mean of unit vectors is: normalise before averaging")
    return image_mean
