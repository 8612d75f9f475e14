"""``Basket``: the vectors and concepts that an edit will change, with their gains."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Item:
    """A vector, or all vectors that carry a concept, and its gain.

    Attributes:
        gain: 0 suppresses, above 1 amplifies, -1 inverts.
        vector: (layer, head, vector); None for a concept.
        concept: the concept; None for a vector.
    """

    gain: float
    vector: tuple[int, int, int] | None = None
    concept: str | None = None

    @property
    def key(self) -> str:
        """What is changed, as a text that no other item has."""
        return f"concept:{self.concept}" if self.vector is None else "vector:" + ",".join(map(str, self.vector))


@dataclass(frozen=True)
class Basket:
    """Items in the order they were added, each once."""

    items: tuple[Item, ...] = ()

    def with_item(self, item: Item) -> Basket:
        """Return a basket with ``item`` too, in the place of an item of the same key."""
        if any(item.key == other.key for other in self.items):
            return replace(self, items=tuple(item if item.key == other.key else other for other in self.items))
        return replace(self, items=(*self.items, item))

    def without(self, key: str) -> Basket:
        """Return a basket without the item of this key."""
        return replace(self, items=tuple(item for item in self.items if item.key != key))
