"""``Gains``, the result of every rule, and ``Selection``, the vectors that a rule may choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from sith_hf.core.ranges import Numbers, parse_numbers
from sith_hf.core.short_repr import short_repr
from sith_hf.core.validation import finite_number
from sith_hf.decomposition import Decomposition

# A singular vector by its layer, head and number in the head.
VectorKey = tuple[int, int, int]

Direction = Literal["less", "more"]
"""What an edit does to a concept: gains below 1 write less of it, gains above 1 more."""


def direction_of(gain: float) -> Direction:
    """Return what a gain does to what its vector writes."""
    return "less" if gain < 1 else "more"


def reversed_directions(named: Mapping[str, Direction]) -> dict[str, Direction]:
    """Return the directions of gains on the other side of 1."""
    return {concept: "more" if direction == "less" else "less" for concept, direction in named.items()}


@short_repr
@dataclass(frozen=True)
class Evidence:
    """Why a vector counts as being about some concepts.

    Attributes:
        about: the concepts, as text.
        share: the share of the explanation's weight that lies on them and on near ones.
        cosine: of the write direction with a single word; None for a topic.
        p_value: of that cosine; None for a topic.
        pole: the pole that counted; None for the mean over both.
        near: for a topic, the near concepts that counted: text, part of the share, cosine to the nearest of the topic.
    """

    about: str
    share: float
    cosine: float | None = None
    p_value: float | None = None
    pole: str | None = None
    near: tuple[tuple[str, float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without values that are None."""
        near = [{"concept": text, "share": share, "cosine": cosine} for text, share, cosine in self.near]
        return {key: value for key, value in (vars(self) | {"near": near}).items() if value is not None}


@short_repr
@dataclass(frozen=True)
class Gains:
    """Singular vectors with their gains, and the reason for each; every other vector keeps a gain of 1.

    Attributes:
        gain: (layer, head, vector) to gain.
        reason: (layer, head, vector) to the reason for the gain, in words.
        protected: (layer, head, vector) to the reason why a rule left a chosen vector unchanged or gave it a milder
            gain, in words.
        unscored: vectors that a rule could not judge, because they have no score.
        evidence: (layer, head, vector) to what a rule by concepts found, once for each time it chose the vector.
        named: (layer, head, vector) to the concepts by which a rule chose it, and what the edit is to do to them; none
            for a vector chosen by number.
    """

    gain: Mapping[VectorKey, float] = field(default_factory=dict)
    reason: Mapping[VectorKey, str] = field(default_factory=dict)
    protected: Mapping[VectorKey, str] = field(default_factory=dict)
    unscored: frozenset[VectorKey] = frozenset()
    evidence: Mapping[VectorKey, tuple[Evidence, ...]] = field(default_factory=dict)
    named: Mapping[VectorKey, Mapping[str, Direction]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("gain", "reason", "protected", "evidence", "named"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __len__(self) -> int:
        return len(self.gain)

    def then(self, other: Gains) -> Gains:
        """Return the union. The gains of a vector in both multiply, so suppressing twice suppresses."""
        gain = {key: self.gain.get(key, 1.0) * other.gain.get(key, 1.0) for key in [*self.gain, *other.gain]}
        reason, protected = _joined(self.reason, other.reason), _joined(self.protected, other.protected)
        evidence = {key: self.evidence.get(key, ()) + other.evidence.get(key, ()) for key in gain}
        found = {key: value for key, value in evidence.items() if value}
        both = {key: {**self.named.get(key, {}), **other.named.get(key, {})} for key in gain}
        named = {key: value for key, value in both.items() if value}
        return Gains(gain, reason, protected, self.unscored | other.unscored, found, named)

    def __mul__(self, strength: float) -> Gains:
        """Move every gain towards 1: strength 0 changes nothing, 1 is the edit itself. Raises InputError."""
        keys = list(self.gain)
        full = torch.tensor([self.gain[key] for key in keys], dtype=torch.float64)
        scaled = torch.lerp(torch.ones_like(full), full, finite_number(strength, "a strength"))
        named = {key: reversed_directions(each) for key, each in self.named.items()} if strength < 0 else self.named
        return replace(self, gain=dict(zip(keys, scaled.tolist(), strict=True)), named=named)


@dataclass(frozen=True)
class Selection:
    """The vectors that a rule may choose, and the way it combines the two poles of a vector.

    Attributes:
        layers: choose only among these, negative ones from the last, or a text such as ``"-4:"``; all of the
            decomposition when None.
        heads: choose only among these, likewise; all when None.
        both_poles: judge a vector by the mean over its poles, not by the stronger one.
    """

    layers: Numbers | None = None
    heads: Numbers | None = None
    both_poles: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "heads"):
            numbers = getattr(self, name)
            object.__setattr__(self, name, None if numbers is None else parse_numbers(numbers, name))

    def of_vectors(self, poles: Tensor) -> Tensor:
        """Combine values of poles, ``[L, H, R, poles]``, to values of vectors, ``[L, H, R]``."""
        return poles.mean(dim=-1) if self.both_poles else poles.amax(dim=-1)

    def vectors(
        self, decomposition: Decomposition, where: Tensor | None = None
    ) -> Iterator[tuple[VectorKey, tuple[int, int, int]]]:
        """Yield the key of every selected vector, and its place in tensors of shape ``[L, H, R]``.

        Args:
            decomposition: the vectors to choose from.
            where: a mask ``[L, H, R]``; no further restriction when None.

        Raises:
            InputError: a layer or head that is not in the decomposition.
        """
        allowed = torch.zeros(decomposition.singular_values.shape, dtype=torch.bool)
        heads = list(decomposition.resolve_heads(self.heads))
        for number in decomposition.resolve_layers(self.layers):
            allowed[decomposition.position(number), heads] = True
        for at, head, vector in torch.nonzero(allowed if where is None else allowed & where).tolist():
            yield (decomposition.layers[at], head, vector), (at, head, vector)


# Every vector, judged by its stronger pole.
ALL = Selection()


def check_gain(gain: float) -> float:
    """Return ``gain`` as a float. Raises InputError unless it is a finite number."""
    return finite_number(gain, "a gain (0 removes, 1 leaves, above 1 amplifies, -1 inverts)")


def _joined(first: Mapping[VectorKey, str], second: Mapping[VectorKey, str]) -> dict[VectorKey, str]:
    return {key: "; ".join(words[key] for words in (first, second) if key in words) for key in [*first, *second]}
