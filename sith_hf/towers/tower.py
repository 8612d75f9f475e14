"""``Tower``: the attention layers that the method reads, and the maps between residual stream and joint space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.ranges import Numbers, choose_numbers
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers.attention import AttentionLayer
from sith_hf.towers.readout import Readout

TOWERS = ("vision", "text")

_NO_WORDS = (
    "this tower has no way to the joint space: name the whole model that it belongs to with text_model (--text-model "
    "on the command line)"
)


@short_repr
@dataclass(frozen=True, eq=False)
class Tower:
    """One tower of a model as seen by the method.

    Attributes:
        num_heads: H, attention heads per layer.
        layers: the L attention layers, first to last; an attention-pooling head is the last.
        kind: ``"vision"`` or ``"text"``.
        family: the name of its :class:`sith_hf.towers.TowerFamily`, such as ``"clip"``.
        settings: the settings of the model that are no tensors (:mod:`sith_hf.towers.model_settings`).
        inert: layers whose output reaches nothing that the model returns, with the reason.
        partial: layers whose output does not reach all that the model returns, with the reason.
        no_words: why words do not explain vectors if there is no way to the joint space, and what to do.
    """

    num_heads: int
    layers: tuple[AttentionLayer, ...]
    kind: str = "vision"
    family: str = "clip"
    settings: Mapping[str, Any] = field(default_factory=dict)
    inert: Mapping[int, str] = field(default_factory=dict)
    partial: Mapping[int, str] = field(default_factory=dict)
    no_words: str = _NO_WORDS

    @property
    def hidden_size(self) -> int:
        """The width of the residual stream, D."""
        return int(self.layers[0].out_weight.shape[0])

    @property
    def head_size(self) -> int:
        """The width of a head, d."""
        return self.hidden_size // self.num_heads

    @property
    def joint_size(self) -> int:
        """The size of the joint space, P. Raises InputError for a tower without a way to it."""
        return self.readout().joint_size

    @property
    def has_joint(self) -> bool:
        """Whether there is a way to the joint space, so that words can explain vectors."""
        return all(layer.readout is not None for layer in self.layers)

    def resolve_layers(self, layers: Numbers | None) -> tuple[int, ...]:
        """Return layer numbers ascending and non-negative; negative ones count from the last, None means all.

        Args:
            layers: numbers, or a text with ranges such as ``"-4:"``, ``"8-11"`` or ``"last4"``.

        Raises:
            InputError: no layer, one that does not exist, or one twice.
        """
        count = len(self.layers)
        if layers is None:
            return tuple(range(count))

        def missing(layer: int) -> InputError:
            pool = f" ({count - 1} is the pooling head)" if self.layers[-1].title else ""
            return InputError(
                f"layer {layer} does not exist: this tower has layers 0-{count - 1}{pool}. Use -1 for the last"
            )

        resolved = sorted(choose_numbers(layers, "layers", range(count), missing))
        if not resolved:
            raise InputError("layers is empty: name a layer, or leave layers out for all")
        if len(set(resolved)) != len(resolved):
            raise InputError(f"layers {layers} contain a layer twice (-1 is layer {count - 1}): name each layer once")
        return tuple(resolved)

    def readout(self, layer: int | None = None) -> Readout:
        """Return the way to the joint space of what a layer writes.

        Args:
            layer: its number; the first layer's when None.

        Raises:
            InputError: there is none, as in a vision-only checkpoint without a projection.
        """
        found = self.layers[0 if layer is None else layer].readout
        if found is None:
            raise InputError(self.no_words)
        return found

    def written_at(self, layer: int) -> int:
        """Return a layer that writes to where ``layer`` reads: a pooling head reads what the encoder writes."""
        return layer - 1 if self.layers[layer].title and layer else layer

    @property
    def readouts(self) -> tuple[tuple[Readout, tuple[int, ...]], ...]:
        """The different ways to the joint space, each with its layers."""
        found: dict[int, tuple[Readout, list[int]]] = {}
        for number in range(len(self.layers)):
            way = self.readout(number)
            found.setdefault(id(way), (way, []))[1].append(number)
        return tuple((way, tuple(numbers)) for way, numbers in found.values())

    def to_joint(self, directions: Tensor, mean: Tensor | None = None, layer: int | None = None) -> Tensor:
        """Map directions that a layer writes to unit vectors of the joint space (Method, sec. 3).

        Args:
            directions: ``[..., D]``, float32 or float64.
            mean: mu, ``[P]``, the mean of this tower's normalised embeddings; zero when None.
            layer: the layer's number; the first when None.

        Returns:
            ``[..., P]`` of the same dtype.
        """
        joint = self.readout(layer).to_joint(directions)
        return joint if mean is None else normalize(joint - check_mean(mean, self.joint_size).to(joint), dim=-1)

    def to_joint_of(self, layers: Sequence[int], directions: Tensor, mean: Tensor | None = None) -> Tensor:
        """Map the directions ``[L, ..., D]`` of L layers, each by the way of its own, to ``[L, ..., P]``."""
        pairs = zip(layers, directions, strict=True)
        return torch.stack([self.to_joint(each, mean, layer) for layer, each in pairs])

    def from_joint(self, joint: Tensor, mean: Tensor | None = None, layer: int | None = None) -> Tensor:
        """Map points of the joint space back to unit vectors of the residual stream (Method, sec. 5).

        Args:
            joint: ``[..., P]``, float32 or float64.
            mean, layer: as for :meth:`to_joint`.

        Returns:
            ``[..., D]`` of the same dtype; zero for a zero point.
        """
        way, joint = self.readout(layer), normalize(joint, dim=-1)
        if mean is not None:
            joint = normalize(joint + check_mean(mean, self.joint_size).to(joint), dim=-1)
        return way.from_joint(joint)

    def sha256(self, layers: Iterable[int], *, outside: bool = True) -> dict[str, str]:
        """Return fingerprints of every tensor that a decomposition of ``layers`` reads, by name on disk.

        Args:
            layers: their numbers.
            outside: with the tensors that may come from a companion.
        """
        prints: dict[str, str] = {}
        numbers = list(layers)
        for way in {id(way): way for n in numbers or [0] if (way := self.layers[n].readout) is not None}.values():
            names = [name for name in way.tensors if outside or name not in way.outside]
            prints |= {name: tensor_sha256(way.tensors[name]) for name in names if name not in prints}
        for number in numbers:
            prints |= self.layers[number].sha256()
        return prints

    def check(self, base: BaseRef, layers: Iterable[int], where: str = "this model") -> None:
        """Check that ``base`` is of this tower: the tensors of ``layers``, and the settings.

        Raises:
            BaseMismatch: it is of another tower.
            InputError: it has a projection, and this tower has none.
        """
        found = self.sha256(layers)
        if not self.has_joint and found.keys() < base.sha256.keys():
            base.only(found).check(found, where, self.settings)
            self.readout()  # says what to do
        base.check(found, where, self.settings)

    def check_writable(self, layers: Iterable[int]) -> None:
        """Raise UnsupportedModel if what one of ``layers`` writes reaches nothing, with the reason."""
        check_writable(self.inert, layers)


def check_writable(inert: Mapping[int, str], layers: Iterable[int]) -> None:
    """Raise UnsupportedModel if one of ``layers`` is inert, with the reason (:attr:`Tower.inert`)."""
    for layer in layers:
        if layer in inert:
            raise UnsupportedModel(f"an edit of layer {layer} would do nothing: {inert[layer]}")


def partial_lines(partial: Mapping[int, str], layers: Iterable[int]) -> tuple[str, ...]:
    """Return one line for each reason why an edit of ``layers`` does not reach all that a model returns."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        if layer in partial:
            found.setdefault(partial[layer], []).append(str(layer))
    return tuple(
        f"layer{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}: {reason}" for reason, numbers in found.items()
    )


def check_mean(mean: Tensor, size: int) -> Tensor:
    """Return ``mean``. Raises InputError unless it is a finite ``[size]`` shorter than 1."""
    if not isinstance(mean, Tensor) or not mean.is_floating_point():
        raise InputError(f"image_mean must be a floating-point tensor; got {type(mean).__name__}")
    if mean.shape != (size,):
        raise InputError(f"image_mean must be a vector of length {size}; got shape {list(mean.shape)}")
    if not torch.isfinite(mean).all():
        raise InputError("image_mean must be finite; got NaN or infinity")
    if mean.norm() >= 1:
        raise InputError("image_mean must be shorter than 1, as a mean of unit vectors is: normalise before averaging")
    return mean
