"""``Provenance``: why the vectors of an edit were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sith_hf.core.settings import Settings
from sith_hf.decomposition import Explanation
from sith_hf.errors import ArtifactError, InputError


@dataclass(frozen=True)
class Provenance:
    """The explanation of each edited vector, and the reason why it was chosen.

    Attributes:
        explanations: for each term, the poles that were explained.
        reasons: for each term, why it was chosen, in a few words.
        decomposition: the settings of the decomposition, as plain data.
    """

    explanations: tuple[tuple[Explanation, ...], ...]
    reasons: tuple[str, ...]
    decomposition: Mapping[str, Any]

    def select(self, terms: Sequence[int]) -> Provenance:
        """Return the provenance of these terms, in this order."""
        return Provenance(
            tuple(self.explanations[i] for i in terms), tuple(self.reasons[i] for i in terms), self.decomposition
        )

    def join(self, other: Provenance) -> Provenance | None:
        """Append another provenance; return None if the decompositions had different settings."""
        if dict(self.decomposition) != dict(other.decomposition):
            return None
        explanations = (*self.explanations, *other.explanations)
        return Provenance(explanations, (*self.reasons, *other.reasons), self.decomposition)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        poles = [[_pole(pole) for pole in term] for term in self.explanations]
        return {"explanations": poles, "reasons": list(self.reasons), "decomposition": dict(self.decomposition)}

    @classmethod
    def from_json(cls, value: Any) -> Provenance:
        """Read the data of :meth:`to_json`. Raises ArtifactError for any other data."""
        try:
            found = _Stored.from_data(value, "the provenance")
        except InputError as error:
            raise ArtifactError(f"{error}; make the file again") from None
        poles = {pole.pole for term in found.explanations for pole in term}
        if len(found.explanations) != len(found.reasons) or not poles <= {"+", "-"}:
            raise ArtifactError("the provenance does not fit the terms of the edit; make the file again")
        return cls(found.explanations, found.reasons, found.decomposition)


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
