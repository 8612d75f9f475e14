"""One head: its vectors, and how much of it is explained."""

from __future__ import annotations

from dataclasses import dataclass

from sith_hf.decomposition import Decomposition, Explanation
from sith_hf.explore.found_images import Found, ShownImage
from sith_hf.towers import layer_title

PAGE = 16
"""Vectors on a page."""


@dataclass(frozen=True)
class Word:
    """A concept with a bar.

    Attributes:
        text: the concept.
        value: its weight or correlation.
        length: of the bar, 0 to 1.
    """

    text: str
    value: float
    length: float


@dataclass(frozen=True)
class PoleView:
    """One pole of a vector.

    Attributes:
        pole: ``"+"`` or ``"-"``.
        silent: whether its words are known to be no better than chance.
        writes: its words, with weights.
        driven_by: the words that drive it, with correlations; None where they were not measured.
        fidelity, ceiling, chance, p_value: of the explanation; None where not known.
        images: those that drive it most; empty where none were looked for.
    """

    pole: str
    silent: bool
    writes: tuple[Word, ...]
    driven_by: tuple[Word, ...] | None
    fidelity: float
    ceiling: float
    chance: float | None
    p_value: float | None
    images: tuple[ShownImage, ...] = ()

    @property
    def folded(self) -> bool:
        """Whether the pole has nothing to show unasked."""
        return self.silent and not self.driven_by and not self.images


@dataclass(frozen=True)
class VectorView:
    """A vector.

    Attributes:
        vector: its number; 0 is the strongest.
        energy: its share of the head's energy, 0 to 1.
        length: of the bar, relative to the head's strongest vector.
        singular_value: s.
        poles: its explained poles; empty without words.
        total_cosine: the cosine of its direct and its total effect; None where not measured.
    """

    vector: int
    energy: float
    length: float
    singular_value: float
    poles: tuple[PoleView, ...]
    total_cosine: float | None = None

    @property
    def folded(self) -> bool:
        """Whether no pole has anything to show unasked."""
        return bool(self.poles) and all(pole.folded for pole in self.poles)


@dataclass(frozen=True)
class HeadView:
    """A page of a head's vectors.

    Attributes:
        layer, head: its numbers.
        title: the place, for a person.
        side: what the words are of, ``"write"`` or ``"read"``.
        rank: the number of vectors.
        beyond: the share of the energy in vectors with words beyond chance; None where not known.
        silent: how many of the poles are silent; None where not known.
        poles: the number of explained poles.
        spectrum: for each vector its bar, 0 to 1, and whether it has words beyond chance.
        vectors: those of the page.
        page, pages: the number of the page from 0, and of all.
        images: what is known about images, or how to get them, in one sentence.
        can_look: whether images can be looked for.
    """

    layer: int
    head: int
    title: str
    side: str
    rank: int
    beyond: float | None
    silent: int | None
    poles: int
    spectrum: tuple[tuple[float, bool], ...]
    vectors: tuple[VectorView, ...]
    page: int
    pages: int
    images: str = ""
    can_look: bool = False


def head_view(
    decomposition: Decomposition,
    layer: int,
    head: int,
    page: int = 0,
    *,
    images: Found | None = None,
    about_images: str = "",
    can_look: bool = False,
) -> HeadView:
    """Return a page of the vectors of one head; a page beyond the last is the last.

    Args:
        decomposition: the vectors.
        layer, head: the head.
        page: the number of the page, from 0.
        images: (vector, pole) to its images.
        about_images: what to say about them.
        can_look: whether images can be looked for.

    Raises:
        InputError: a layer or head that is not there.
    """
    place = decomposition.place(layer, head, 0)[:2]
    energy, values = decomposition.energy_share[place].tolist(), decomposition.singular_values[place].tolist()
    found = decomposition.beyond_chance()
    heard = [False] * len(energy) if found is None else found[place].any(-1).tolist()
    largest = max(*energy, 1e-30)
    pages = -(-decomposition.rank // PAGE)
    page = min(max(page, 0), pages - 1)
    numbers = range(page * PAGE, min((page + 1) * PAGE, decomposition.rank))
    cosine = None if decomposition.total_cosine is None else decomposition.total_cosine[place].tolist()
    vectors = tuple(
        VectorView(
            vector,
            energy[vector],
            energy[vector] / largest,
            values[vector],
            tuple(
                _pole(decomposition.explain(layer, head, vector, pole), (images or {}).get((vector, pole), ()))
                for pole in decomposition.poles
            ),
            None if cosine is None else cosine[vector],
        )
        for vector in numbers
    )
    return HeadView(
        layer,
        head,
        f"Layer {layer_title(layer, decomposition.base.settings)}, head {head}",
        decomposition.side,
        decomposition.rank,
        None if decomposition.energy_beyond_chance is None else float(decomposition.energy_beyond_chance[place]),
        None if found is None else int((~found[place]).sum()),
        decomposition.rank * len(decomposition.poles),
        tuple((e / largest, h) for e, h in zip(energy, heard, strict=True)),
        vectors,
        page,
        pages,
        about_images,
        can_look,
    )


def _pole(item: Explanation, images: tuple[ShownImage, ...]) -> PoleView:
    most = max((weight for _, weight in item.concepts), default=1.0)
    driven = item.driven_by
    return PoleView(
        item.pole,
        item.silent,
        tuple(Word(text, weight, weight / most) for text, weight in item.concepts),
        # A correlation of one is a full bar.
        None if driven is None else tuple(Word(text, value, min(value, 1.0)) for text, value in driven),
        item.fidelity,
        item.ceiling,
        item.chance,
        item.p_value,
        images,
    )
