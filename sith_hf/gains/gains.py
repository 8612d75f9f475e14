"""``Gains``: which singular vectors an edit takes, and what each is multiplied by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sith_hf.core.validation import finite_number
from sith_hf.gains.selection import VectorKey


@dataclass(frozen=True)
class Gains:
    """Singular vectors with their gains and the reason of each; every other vector keeps a gain of 1.

    Attributes:
        gain: (layer, head, vector) to gain.
        reason: (layer, head, vector) to a few words on why it was chosen.
        protected: (layer, head, vector) to a few words on why a rule that would have taken the vector left it
            unchanged, or gave it a milder gain if the rule has one.
        unscored: vectors that a rule could not judge, because they have no score.
    """

    gain: Mapping[VectorKey, float] = field(default_factory=dict)
    reason: Mapping[VectorKey, str] = field(default_factory=dict)
    protected: Mapping[VectorKey, str] = field(default_factory=dict)
    unscored: frozenset[VectorKey] = frozenset()

    def __post_init__(self) -> None:
        for name in ("gain", "reason", "protected"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __len__(self) -> int:
        return len(self.gain)

    def then(self, other: Gains) -> Gains:
        """Both. The gains of a vector that both name multiply, so that suppressing twice suppresses."""
        gain = {key: self.gain.get(key, 1.0) * other.gain.get(key, 1.0) for key in [*self.gain, *other.gain]}
        return Gains(
            gain,
            _joined(self.reason, other.reason, gain),
            _joined(self.protected, other.protected, [*self.protected, *other.protected]),
            self.unscored | other.unscored,
        )


def _joined(
    first: Mapping[VectorKey, str], second: Mapping[VectorKey, str], keys: Iterable[VectorKey]
) -> dict[VectorKey, str]:
    return {key: "; ".join(words[key] for words in (first, second) if key in words) for key in keys}


def check_gain(gain: float) -> float:
    """``gain`` as a float. Raises InputError unless it is a finite number."""
    return finite_number(gain, "a gain (0 removes, 1 leaves, above 1 amplifies, -1 inverts)")
