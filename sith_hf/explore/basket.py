"""``Basket``: the vectors and concepts that an edit will change, with their gains."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sith_hf.core.validation import finite_number
from sith_hf.errors import InputError

LOWEST, HIGHEST = -1.0, 3.0
"""The range of the sliders. An item may have any finite gain."""

MOST, LONGEST = 100, 200
"""The largest number of items, and of characters of a concept."""


@dataclass(frozen=True)
class Item:
    """A vector, or all vectors that carry a concept, and its gain.

    Attributes:
        gain: 0 suppresses, above 1 amplifies, -1 inverts.
        vector: (layer, head, vector); None for a concept.
        concept: the concept; None for a vector.

    Raises:
        InputError: a gain that is not a finite number, neither or both of vector and concept, or a concept that is
            blank or too long.
    """

    gain: float
    vector: tuple[int, int, int] | None = None
    concept: str | None = None

    def __post_init__(self) -> None:
        finite_number(self.gain, "a gain (0 removes, 1 leaves, above 1 amplifies, -1 inverts)")
        if (self.vector is None) == (self.concept is None):
            raise InputError("name either a vector or a concept to edit")
        if self.concept is not None and not self.concept.strip():
            raise InputError("the concept is blank: write a word, such as beach")
        if self.concept is not None and len(self.concept) > LONGEST:
            raise InputError(
                f"a concept has at most {LONGEST} characters; this text has {len(self.concept)}: add one word at a time"
            )

    @property
    def key(self) -> str:
        """What is changed, as a text that no other item has."""
        return f"concept:{self.concept}" if self.vector is None else "vector:" + ",".join(map(str, self.vector))

    @property
    def name(self) -> str:
        """What is changed, for a person."""
        if self.vector is None:
            return str(self.concept)
        return "layer {}, head {}, vector {}".format(*self.vector)


@dataclass(frozen=True)
class Basket:
    """Items in the order they were added, each once."""

    items: tuple[Item, ...] = ()

    def with_item(self, item: Item) -> Basket:
        """Return a basket with ``item`` too, in the place of an item of the same key.

        Raises:
            InputError: the basket is full.
        """
        if any(item.key == other.key for other in self.items):
            return replace(self, items=tuple(item if item.key == other.key else other for other in self.items))
        if len(self.items) >= MOST:
            raise InputError(f"the basket holds at most {MOST} vectors and concepts: remove one first")
        return replace(self, items=(*self.items, item))

    def added(self, item: Item) -> Basket:
        """Return a basket with ``item`` too; an item of the same key keeps its gain. Raises InputError if it is full.

        A concept is the same in upper and lower case.
        """
        known = {other.key.casefold() for other in self.items}
        return self if item.key.casefold() in known else self.with_item(item)

    def with_gain(self, key: str, gain: float) -> Basket:
        """Return a basket with another gain of the item of this key.

        Raises:
            InputError: no such item, or a gain that is not a finite number.
        """
        if not any(item.key == key for item in self.items):
            raise InputError("this vector or concept is no longer in the basket: add it again")
        return replace(self, items=tuple(replace(i, gain=gain) if i.key == key else i for i in self.items))

    def without(self, key: str) -> Basket:
        """Return a basket without the item of this key."""
        return replace(self, items=tuple(item for item in self.items if item.key != key))
