"""``Provenance``: why the vectors of an edit were chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sith_hf.decomposition import Explanation
from sith_hf.errors import ArtifactError


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
        """Return the provenance of some of the terms, in this order."""
        return Provenance(
            tuple(self.explanations[i] for i in terms), tuple(self.reasons[i] for i in terms), self.decomposition
        )

    def join(self, other: Provenance) -> Provenance | None:
        """Concatenate two; None where their decompositions had different settings."""
        if dict(self.decomposition) != dict(other.decomposition):
            return None
        explanations = (*self.explanations, *other.explanations)
        return Provenance(explanations, (*self.reasons, *other.reasons), self.decomposition)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        poles = [
            [{**vars(pole), "concepts": [list(c) for c in pole.concepts]} for pole in p] for p in self.explanations
        ]
        return {"explanations": poles, "reasons": list(self.reasons), "decomposition": dict(self.decomposition)}

    @classmethod
    def from_json(cls, value: Any) -> Provenance:
        """Read what :meth:`to_json` returned. Raises ArtifactError for anything else."""
        try:
            poles = tuple(tuple(_explanation(pole) for pole in term) for term in value["explanations"])
            reasons, settings = tuple(value["reasons"]), dict(value["decomposition"])
        except (TypeError, KeyError, ValueError):
            raise ArtifactError("the provenance is damaged; make the file again") from None
        if len(poles) != len(reasons) or not all(isinstance(reason, str) for reason in reasons):
            raise ArtifactError(
                "the provenance is damaged: explanations and reasons differ in number; make the file again"
            )
        return cls(poles, reasons, settings)


_KINDS = {"layer": int, "head": int, "vector": int, "pole": str}


def _explanation(value: Mapping[str, Any]) -> Explanation:
    if set(value) != {field.name for field in fields(Explanation)} or value["pole"] not in ("+", "-"):
        raise ValueError
    concepts = tuple((text, float(weight)) for text, weight in value["concepts"])
    numbers: dict[str, Any] = {}
    for name, item in value.items():
        if name != "concepts":
            kind = _KINDS.get(name, float)
            numbers[name] = item if kind is not float else float(item)
            if isinstance(item, bool) or not isinstance(numbers[name], kind):
                raise ValueError
    finite = all(
        math.isfinite(x) for x in (*(w for _, w in concepts), *(v for v in numbers.values() if v not in ("+", "-")))
    )
    if not finite or not all(isinstance(text, str) for text, _ in concepts):
        raise ValueError
    return Explanation(concepts=concepts, **numbers)
