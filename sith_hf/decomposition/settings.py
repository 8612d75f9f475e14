"""``DecomposeSettings``: which singular vectors are explained, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.ranges import Numbers, parse_numbers
from sith_hf.core.short_repr import short_repr
from sith_hf.core.validation import did_you_mean, whole_number
from sith_hf.errors import InputError
from sith_hf.pursuit import Pursuit
from sith_hf.towers import AttentionLayer, Tower, check_mean

SIDES = ("write", "read")
"""The two directions of a singular vector; the paper's right and left ones."""

EFFECTS = ("direct", "total")
"""What of a direction is explained: itself, or also what later layers make of it."""

# The settings that are of explanations, not of the vectors.
_OF_WORDS = {
    "poles": "poles (--poles)",
    "side": "side (--side)",
    "effect": "effect (--effect)",
    "pursuit": "the pursuit (--method, --sparsity, --coherence-weight)",
    "image_mean": "image_mean (--image-mean)",
}


@short_repr
@dataclass(frozen=True, eq=False)
class DecomposeSettings:
    """The settings of a decomposition. Raises InputError for values that are invalid for every tower.

    Example::

        settings = DecomposeSettings(layers=[-4, -3, -2, -1], pursuit=Pursuit(sparsity=10))
    """

    layers: Numbers | None = None
    """Layer numbers, negative ones from the last, or a text such as ``"-4:"``, ``"8-11"`` or ``"last4"``; all layers
    when None."""

    rank: int | None = None
    """Singular vectors kept per head; all when None."""

    poles: str = "+-"
    """The poles to explain: ``"+-"``, or ``"+"`` as in the paper."""

    side: str = "write"
    """The directions to explain: ``"write"``, what a head writes, or ``"read"``, what it looks for."""

    effect: str = "direct"
    """``"direct"``, the written direction itself, or ``"total"``, with what later layers make of it on images."""

    pursuit: Pursuit = field(default_factory=Pursuit)
    """The sparse coder."""

    fold: bool = True
    """Fold the layer norm into the read directions."""

    centre: bool | None = None
    """Drop the all-ones direction; the value of ``fold`` when None."""

    image_mean: Tensor | None = None
    """mu, ``[P]``, the mean of normalised image embeddings; zero when None."""

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", parse_numbers(self.layers, "layers"))
        if self.rank is not None:
            whole_number(self.rank, "rank", least=1)
        if self.poles not in ("+-", "+"):
            raise InputError(f'poles must be "+-" or "+"; got {self.poles!r}')
        if self.side not in SIDES:
            raise InputError(f'side must be "write" or "read"; got {self.side!r}')
        if self.effect not in EFFECTS:
            raise InputError(f'effect must be "direct" or "total"; got {self.effect!r}')
        if self.effect == "total" and self.side == "read":
            raise InputError(
                'effect="total" is about what a vector writes, and side="read" explains what it reads: leave one of '
                "them out (--effect, --side)"
            )
        if not isinstance(self.pursuit, Pursuit):
            raise InputError(f"pursuit must be a Pursuit; got {self.pursuit!r}")

    def override(self, **changes: Any) -> DecomposeSettings:
        """Return a copy with some fields changed. Raises InputError for an unknown field."""
        known = [item.name for item in fields(self)]
        for name in changes:
            if name not in known:
                raise InputError(
                    f"unknown setting {name!r} of decompose{did_you_mean(name, known)}; the settings are "
                    f"{', '.join(known)}"
                )
        return replace(self, **changes)

    def check(self, tower: Tower, concepts: int | None = None) -> tuple[int, ...]:
        """Return the layer numbers, ascending, if these settings fit a tower.

        Args:
            tower: the tower to decompose.
            concepts: M, the size of the dictionary, if known.

        Raises:
            InputError: a tower without projection, a layer or rank out of range, an image mean of another size, or
                fewer concepts than an explanation has.
        """
        numbers, size = self._layers(tower), tower.joint_size
        if self.image_mean is not None:
            check_mean(self.image_mean, size)
        sparsity = self.pursuit.sparsity
        if concepts is not None and concepts < sparsity:
            raise InputError(
                f"an explanation of {sparsity} concepts needs at least {sparsity} in the dictionary; got {concepts}: "
                f"give more concepts, or a smaller sparsity (--sparsity {max(1, concepts)})"
            )
        return numbers

    def check_vectors(self, tower: Tower) -> tuple[int, ...]:
        """Return the layer numbers, ascending, if these settings fit a tower whose vectors are not explained.

        Raises:
            InputError: a layer or rank out of range, or a setting of explanations.
        """
        default = DecomposeSettings()
        for name, shown in _OF_WORDS.items():
            own, usual = getattr(self, name), getattr(default, name)
            if own is not usual and (isinstance(own, Tensor) or own != usual):
                raise InputError(
                    f"{shown} is a setting of explanations, and without concepts there are none: give concepts, or "
                    "leave it out"
                )
        return self._layers(tower)

    def _layers(self, tower: Tower) -> tuple[int, ...]:
        numbers = tower.resolve_layers(self.layers)
        if self.rank is not None and self.rank > tower.head_size:
            raise InputError(f"rank must be between 1 and the head size {tower.head_size}; got {self.rank}")
        return numbers

    @property
    def centred(self) -> bool:
        """The value of ``centre``, or of ``fold`` if that is None."""
        return self.fold if self.centre is None else self.centre

    def centres(self, layer: AttentionLayer) -> bool:
        """Whether the explained directions of a layer have no part along the all-ones direction."""
        if self.side == "write":
            return self.centred and layer.write_centred
        return self.centred and self.fold and layer.read_centred  # read directions are centred with folding only

    @property
    def signs(self) -> Tensor:
        """The sign of each pole, ``[poles]`` float64."""
        return torch.tensor([1.0 if pole == "+" else -1.0 for pole in self.poles], dtype=torch.float64)

    def to_json(self) -> dict[str, Any]:
        """Return the settings that a decomposition stores; for the image mean, only whether one was given."""
        return {
            "fold": self.fold,
            "centre": self.centred,
            # Named where they are not the default: other decompositions keep the bytes of earlier releases.
            **({} if self.side == "write" else {"side": self.side}),
            **({} if self.effect == "direct" else {"effect": self.effect}),
            "image_mean": self.image_mean is not None,
            "method": self.pursuit.method,
            "sparsity": self.pursuit.sparsity,
            "coherence_weight": self.pursuit.coherence_weight,
        }
