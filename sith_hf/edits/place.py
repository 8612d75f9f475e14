"""``Place``: the tower that an edit changes, and the names on disk of the tensors in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.files import require
from sith_hf.towers import TOWERS

_CLIP = "vision_model.encoder.layers.{layer}.self_attn.out_proj."


@dataclass(frozen=True)
class Place:
    """Where an edit is made.

    Attributes:
        tower: ``"vision"`` or ``"text"``.
        family: the family of the model, such as ``"clip"``.
        outputs: for each edited layer, the names on disk of the weight and bias of its output projection; the bias is
            None if it has none. A layer that is missing has the names of CLIP's vision tower.
    """

    tower: str = "vision"
    family: str = "clip"
    outputs: Mapping[int, tuple[str, str | None]] = field(default_factory=dict)

    def names(self, layer: int) -> tuple[str, str | None]:
        """Return the names on disk of the weight and bias that an edit of a layer changes."""
        stem = _CLIP.format(layer=layer)
        return self.outputs.get(layer, (f"{stem}weight", f"{stem}bias"))

    @property
    def title(self) -> str:
        """The tower and family in words."""
        return f"the {self.tower} tower of the family {self.family}"

    def of(self, layers: Mapping[int, tuple[str, str | None]]) -> Place:
        """Return the same place with the names of other layers, leaving out those that CLIP's vision tower has."""
        plain = Place()
        kept = {layer: names for layer, names in layers.items() if names != plain.names(layer)}
        return Place(self.tower, self.family, kept)

    def to_json(self) -> dict[str, Any] | None:
        """Return a JSON object; None for CLIP's vision tower, so that its files keep the bytes of earlier releases."""
        if self == Place():
            return None
        outputs = {str(layer): list(names) for layer, names in sorted(self.outputs.items())}
        return {"tower": self.tower, "family": self.family, "outputs": outputs}

    @classmethod
    def from_json(cls, value: Any, path: Path) -> Place:
        """Read what :meth:`to_json` returns. Raises ArtifactError for anything else."""
        match value:
            case None:
                return cls()
            case {"tower": str(tower), "family": str(family), "outputs": dict(outputs)} if tower in TOWERS:
                pairs = all(
                    layer.isdecimal() and isinstance(names, list) and len(names) == 2 and isinstance(names[0], str)
                    and isinstance(names[1], str | None)
                    for layer, names in outputs.items()
                )  # fmt: skip
                require(pairs, path, "its record of the edited tensors is damaged")
                return cls(tower, sanitize(family), {int(n): (names[0], names[1]) for n, names in outputs.items()})
        require(False, path, "its record of the edited tower is damaged")
        raise AssertionError
