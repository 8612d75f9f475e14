"""``Provenance``: why the vectors of an edit were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sith_hf.core.settings import Settings
from sith_hf.decomposition import Explanation
from sith_hf.errors import ArtifactError, InputError
from sith_hf.gains import Direction, reversed_directions


@dataclass(frozen=True)
class Provenance:
    """The explanation of each edited vector, and the reason why it was chosen.

    Attributes:
        explanations: for each term, the poles that were explained.
        reasons: for each term, why it was chosen, in a few words.
        decomposition: the settings of the decomposition, as plain data.
        named: for each term, the concepts by which it was chosen, to what the edit does to them; empty if no term has
            such concepts, or if an earlier release made the edit.
        others: other concepts of the dictionary, to compare the named ones with.
    """

    explanations: tuple[tuple[Explanation, ...], ...]
    reasons: tuple[str, ...]
    decomposition: Mapping[str, Any]
    named: tuple[Mapping[str, Direction], ...] = ()
    others: tuple[str, ...] = ()

    def select(self, terms: Sequence[int]) -> Provenance:
        """Return the provenance of these terms, in this order."""
        return replace(
            self,
            explanations=tuple(self.explanations[i] for i in terms),
            reasons=tuple(self.reasons[i] for i in terms),
            named=tuple(self.named[i] for i in terms) if self.named else (),
        )

    def join(self, other: Provenance) -> Provenance | None:
        """Append another provenance; return None if the decompositions had different settings."""
        if dict(self.decomposition) != dict(other.decomposition):
            return None
        named = (*self._each_named, *other._each_named) if self.named or other.named else ()
        return replace(
            self,
            explanations=(*self.explanations, *other.explanations),
            reasons=(*self.reasons, *other.reasons),
            named=named,
            others=tuple(dict.fromkeys((*self.others, *other.others))),
        )

    @property
    def _each_named(self) -> tuple[Mapping[str, Direction], ...]:
        return self.named or ({},) * len(self.reasons)

    def reverse(self) -> Provenance:
        """Return the provenance of the same vectors with gains on the other side of 1."""
        return replace(self, named=tuple(map(reversed_directions, self.named)))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        poles = [[_pole(pole) for pole in term] for term in self.explanations]
        data = {"explanations": poles, "reasons": list(self.reasons), "decomposition": dict(self.decomposition)}
        named = {"named": [dict(item) for item in self.named], "others": list(self.others)}
        return data | {key: value for key, value in named.items() if value}

    @classmethod
    def from_json(cls, value: Any) -> Provenance:
        """Read the data of :meth:`to_json`. Raises ArtifactError for any other data."""
        try:
            found = _Stored.from_data(value, "the provenance")
        except InputError as error:
            raise ArtifactError(f"{error}; make the file again") from None
        poles = {pole.pole for term in found.explanations for pole in term}
        lengths = {len(found.explanations), len(found.reasons), len(found.named or found.reasons)}
        if len(lengths) > 1 or not poles <= {"+", "-"}:
            raise ArtifactError("the provenance does not fit the terms of the edit; make the file again")
        return cls(**dict(found))


# What an explanation has had since later releases: left out where it is not known, as earlier files have it.
_LATER = ("driven_by", "total_cosine", "p_head", "chance", "head_chance", "beyond_chance")


def _pole(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as plain data; the side is that of the write directions, as in every edit."""
    return {k: v for k, v in vars(explanation).items() if k != "side" and not (k in _LATER and v is None)}


class _Stored(Settings):
    """The JSON form of a provenance."""

    explanations: tuple[tuple[Explanation, ...], ...]
    reasons: tuple[str, ...]
    decomposition: dict[str, Any]
    named: tuple[dict[str, Direction], ...] = ()
    others: tuple[str, ...] = ()
