"""``EditEffect``: the measured effect of an edit on the concepts that it names, beside others and random vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.core.reading import read_text_input
from sith_hf.core.settings import Settings
from sith_hf.edits.spec import AnySpec
from sith_hf.errors import InputError
from sith_hf.gains import Direction

EFFECT = "effect.json"
"""The file of an edited checkpoint's effect, in ``sith/``."""

EFFECT_LEVEL = 0.1
"""The largest p-value of an effect: random vectors change at most one concept in ten as much (docs/guide/edit.md)."""

POSSIBLE_LEVEL, LEAST_POSSIBLE = 0.02, 0.05
"""An edit is refused only where the vectors that carry its concepts do this: the largest p-value, the least effect."""

# Concepts that a sentence lists.
_LISTED = 5
_LONGEST = 2**20


class EffectImages(Settings):
    """The images of a measurement, without local folders."""

    title: str = Field(min_length=1, max_length=1000)
    count: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    skipped: dict[str, int] = Field(default_factory=dict)
    """Reason to the number of images left out."""
    options: tuple[str, ...] = Field(default=(), max_length=40)
    """The options of ``sith-hf save-edited`` that name them again; none for drawn leaves."""


class NamedEffect(Settings):
    """The effect on the concepts that an edit is to weaken, or on those that it is to strengthen.

    The unit is the share of the base's variation over the images that a similarity keeps: the slope of the edited
    similarity on that of the base. 1 is no effect, 0 removes, below 0 inverts, above 1 amplifies.
    """

    direction: Direction
    """What the edit is to do to the concepts: write less of them, or more."""
    kept: dict[str, float] = Field(min_length=1, max_length=1000)
    """Concept to the share that its similarity keeps."""
    mean: float
    """The mean over these concepts."""
    others: float
    """The median over other concepts."""
    random: float | None = None
    """The mean over these concepts, with random vectors."""
    random_others: float | None = None
    """The median over other concepts, with random vectors."""
    p_value: float | None = Field(default=None, ge=0, le=1)
    """The share of all concepts, over all sets of random vectors, that these change as much; None without them."""

    strongest: float | None = None
    """The mean over these concepts, with as many vectors that carry them most strongly; None if the edit has these."""
    strongest_others: float | None = None
    """The median over other concepts, with these vectors."""
    strongest_p_value: float | None = Field(default=None, ge=0, le=1)
    """As ``p_value``, for these vectors."""

    @property
    def beyond_chance(self) -> bool | None:
        """Whether random vectors have a smaller effect; None without random vectors."""
        return None if self.p_value is None else self.p_value <= EFFECT_LEVEL

    @property
    def is_none(self) -> bool:
        """Whether random vectors have the same effect, where the vectors that carry the concepts have a far larger one.

        Where not even these stand out, a measurement says nothing against the edit.
        """
        if self.beyond_chance is not False or self.strongest_p_value is None:
            return False
        largest = self._gap(self.strongest, self.strongest_others)
        possible = self.strongest_p_value <= POSSIBLE_LEVEL and largest >= LEAST_POSSIBLE
        return possible and self._gap(self.mean, self.others) < largest / 4

    def _gap(self, own: float | None, others: float | None) -> float:
        gap = (own or 0.0) - (others or 0.0) - ((self.random or 0.0) - (self.random_others or 0.0))
        return gap if self.direction == "more" else -gap

    def __str__(self) -> str:
        names = [sanitize(name, 60) for name in self.kept]
        shown = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        inverted = ", inverted" if self.mean < 0 else ""
        control = "" if self.random is None else f", {self.random:.0%} after an edit of as many random vectors"
        chance = ", no more than chance" if self.beyond_chance is False else ""
        return (
            f"the similarity of images to {shown} keeps {self.mean:.0%} of its variation{inverted} "
            f"({self.others:.0%} for other concepts{control}{chance})"
        )


class EditEffect(Settings):
    """What an edit does to similarities of images and texts, measured before it is written.

    Attributes are those of the JSON in ``sith/effect.json``.
    """

    format: Literal["sith-hf/edit-effect"] = "sith-hf/edit-effect"
    version: Literal[1] = 1
    edit: str = Field(pattern="^[0-9a-f]{64}$")
    """The fingerprint of the edit (:func:`edit_sha256`)."""
    images: EffectImages
    named: tuple[NamedEffect, ...] = Field(default=(), max_length=2)
    """The effect on the concepts that the edit names; empty for an edit that names none."""
    compared: int = Field(default=0, ge=0)
    """The number of other concepts."""
    draws: int = Field(default=0, ge=0)
    """The number of sets of random vectors, each as many as the edit's, in the same layers, with the same gains."""
    drift: float
    """The mean change of image embeddings, 1 - cosine."""
    random_drift: float | None = None
    """The same with random vectors."""
    text_model: str | None = Field(default=None, max_length=1000)
    """The model that encoded the texts, if it is not the edited one."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return self.model_dump(mode="json")

    @classmethod
    def from_file(cls, path: Path) -> EditEffect:
        """Read the file of an edited checkpoint. Raises InputError for a file of another form."""
        text = read_text_input(path, "the effect of the edit", "save the checkpoint again", _LONGEST)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON ({error}): save the checkpoint again") from None
        return cls.from_data(data, str(path))

    def is_of(self, spec: AnySpec) -> bool:
        """Return whether this was measured for the same edit, by the same names."""
        return self.edit == edit_sha256(spec)

    def check(self) -> None:
        """Raise InputError if the edit has no effect on what it names."""
        for item in self.named:
            if item.is_none:
                wanted = "weaken" if item.direction == "less" else "strengthen"
                raise InputError(
                    f"the edit has no effect on what it names: it is to {wanted} it, but {item}, over {self._images}, "
                    f"and as many vectors that carry it most strongly leave {item.strongest or 0:.0%}. "
                    "Choose vectors that carry these concepts (sith-hf find, suppress), or more of them; or name "
                    "images that show them (--images)"
                )

    @property
    def _images(self) -> str:
        return f"{self.images.count} images ({sanitize(self.images.title, 200)})"

    def __repr__(self) -> str:
        return f"EditEffect({sanitize(' '.join(str(self).splitlines()), 600)})"

    def __str__(self) -> str:
        if not self.named:
            control = "" if self.random_drift is None else f", random vectors by {self.random_drift:.3f}"
            return (
                f"the edit names no concepts: it changes image embeddings by {self.drift:.3f} (1 - cosine{control}), "
                f"over {self._images}"
            )
        return "\n".join(f"effect: {item}, over {self._images}" for item in self.named)


def edit_sha256(spec: AnySpec) -> str:
    """Return the fingerprint of an edit: its terms, and what it names."""
    facts: list[Any] = []
    for part in spec.parts:
        tensors = {name: tensor_sha256(tensor) for name, tensor in sorted(part.tensors.items())}
        named: list[Mapping[str, Direction]] = [] if part.provenance is None else list(part.provenance.named)
        facts.append([part.tower, part.reverts, tensors, [dict(each) for each in named]])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
