"""``GroundedPole``: the images that drive one pole of a singular vector, and how well they agree with its words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition import Explanation, concepts_text
from sith_hf.grounding.agreement import Agreement


@short_repr
@dataclass(frozen=True, eq=False)
class GroundedImage:
    """An image, seen by one pole.

    Attributes:
        row: its number in the dataset, among the rows that the settings choose.
        file: the name of its file, empty if it has none.
        coefficient: of the vector, at the token of :attr:`GroundedPole.where`; negative where it drives pole "-".
        similarity: of its embedding to the explanation, the weighted sum of its concepts; None without one.
        patches: ``[rows, columns]``, the part of each patch in the coefficient; None where it is not known.
        others: the part of all other tokens, such as the class token. Parts add up to the coefficient.
    """

    row: int
    file: str
    coefficient: float
    similarity: float | None = None
    patches: Tensor | None = field(default=None, repr=False)
    others: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the parts of single patches."""
        return {name: getattr(self, name) for name in ("row", "file", "coefficient", "similarity", "others")}


@short_repr
@dataclass(frozen=True, eq=False)
class GroundedPole:
    """The images of one pole of one singular vector.

    Attributes:
        layer, head, vector, pole: the pole.
        where: the token at which coefficients are read: ``"class token"``, ``"pool"`` or ``"mean over tokens"``.
        active: the share of all images whose coefficient has the sign of the pole.
        images: those that drive the pole most, strongest first.
        random: random images, none of which is among ``images``.
        explanation: of the pole; None in a decomposition without words.
        beyond_chance: whether the explanation is better than chance; None if not known.
        agreement: of the explanation and the images; None without words or embeddings.
    """

    layer: int
    head: int
    vector: int
    pole: str
    where: str
    active: float
    images: tuple[GroundedImage, ...]
    random: tuple[GroundedImage, ...]
    explanation: Explanation | None = None
    beyond_chance: bool | None = None
    agreement: Agreement | None = None

    @property
    def silent(self) -> bool:
        """Whether the words are known to be no better than chance."""
        return self.beyond_chance is False

    @property
    def driven_by(self) -> tuple[tuple[str, float], ...] | None:
        """The concepts that go with the coefficient, with their correlations; None if they were not measured."""
        return None if self.explanation is None else self.explanation.driven_by

    @property
    def words(self) -> str:
        """What the pole writes, in words; marked if the words are no better than chance."""
        if self.explanation is None:
            return ""
        return concepts_text(self.explanation) + (" (chance)" if self.silent else "")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        found = self.agreement
        writes = None if self.explanation is None else [list(pair) for pair in self.explanation.concepts]
        return {
            **{name: getattr(self, name) for name in ("layer", "head", "vector", "pole", "where", "active")},
            "writes": writes,
            "driven_by": None if self.driven_by is None else [list(pair) for pair in self.driven_by],
            "beyond_chance": self.beyond_chance,
            "agreement": None if found is None else vars(found),
            "images": [image.to_json() for image in self.images],
            "random": [image.to_json() for image in self.random],
        }
