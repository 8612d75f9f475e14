"""What a basket changes: its vectors, energy and drift, and what speaks against it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from torch import Tensor

from sith_hf.decomposition import Decomposition, poles_label
from sith_hf.editor import Edit
from sith_hf.errors import InputError, SithError
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.explorer import Explorer
from sith_hf.gains import (
    SHARE_THRESHOLD,
    Gains,
    Impact,
    by_concepts,
    by_name,
    direction_of,
    drift_shares,
    impact_of,
    share_of,
)


@dataclass(frozen=True)
class ItemView:
    """One item of a basket.

    Attributes:
        key: the item's key.
        name: what is changed, for a person.
        words: the words of a vector; empty for a concept.
        gain: its gain.
        vectors: the number of vectors that it changes.
        taken: for a concept, the estimated share of what the model writes of it that the edit changes, 0 to 1; None if
            not known.
        problem: why the item changes nothing; empty if it does.
        left_out: the vectors that carry the concept most strongly and are not chosen, with the reason.
    """

    key: str
    name: str
    words: str
    gain: float
    vectors: int
    taken: float | None = None
    problem: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditView:
    """An edit.

    Attributes:
        items: in the order of the basket.
        impact: how much of the model the edit changes, estimated from the weights.
        excess: the limits that it exceeds, in words; empty if none.
        warnings: what else speaks against it.
        tower: the tower that is edited, ``"vision"`` or ``"text"``.
        with_model: whether the model was asked. Without it, the drift is not known, and a concept stands for the
            vectors whose explanation is mostly about it.
        problem: why there is no edit at all; empty if there may be one.
    """

    items: tuple[ItemView, ...]
    impact: Impact
    excess: str
    warnings: tuple[str, ...]
    tower: str
    with_model: bool
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        items = [{**vars(item), "left_out": list(item.left_out)} for item in self.items]
        return {**vars(self), "items": items, "impact": self.impact.to_json(), "warnings": list(self.warnings)}


@dataclass(frozen=True, eq=False)
class Draft:
    """The vectors and gains of a basket.

    Attributes:
        gains: the gains of all items; those of a vector of several items multiply.
        own: the gains of each item, empty for one with a problem.
        problems: the problem of each item; empty for none.
        edit: the same as an edit of the model; None without a model.
    """

    gains: Gains
    own: tuple[Gains, ...]
    problems: tuple[str, ...]
    edit: Edit | None


def preview(explorer: Explorer, basket: Basket) -> EditView:
    """Return what a basket changes. An item that cannot be used has a problem, and the others count.

    Raises:
        InputError: the model cannot be loaded, or the decomposition is of another.
    """
    decomposition = explorer.decomposition
    problem, warnings = "", list[str]()
    try:
        decomposition.require_side("write")
    except InputError as error:
        problem = str(error)
    found = _nothing(basket) if problem else draft(explorer, basket)
    impact = impact_of(
        None if found.edit is None else found.edit.editor.tower,
        decomposition,
        found.gains.gain,
        shares=None if found.edit is None else _shares(explorer),
    )
    if impact.by_chance:
        warnings.append(_by_chance(impact))
    taken = {} if found.edit is None else found.edit.taken
    if found.edit is not None:
        warnings += found.edit.warnings
    views = tuple(
        _item(decomposition, item, gains, why, None if item.concept is None else taken.get(item.concept), found.edit)
        for item, gains, why in zip(basket.items, found.own, found.problems, strict=True)
    )
    tower, with_model = decomposition.tower, explorer.model is not None
    return EditView(views, impact, impact.excess, tuple(dict.fromkeys(warnings)), tower, with_model, problem)


def draft(explorer: Explorer, basket: Basket) -> Draft:
    """Choose the vectors of a basket, each item by itself.

    With a model, a concept stands for the vectors that carry it beyond chance (:func:`sith_hf.gains.by_word`); without
    one, for those whose explanation is mostly about it (:func:`sith_hf.gains.by_concepts`).

    Raises:
        InputError: the model cannot be loaded, or the decomposition is of another.
    """
    # An empty basket does not need to wait for the model.
    edit = None if explorer.model is None or not basket.items else explorer.editor.edit()
    own, problems, gains = list[Gains](), list[str](), Gains()
    for item in basket.items:
        try:
            part = _chosen(explorer, item) if edit is None else _edited(explorer, item)
        except SithError as error:
            own.append(Gains())
            problems.append(str(error))
            continue
        chosen = part.gains if isinstance(part, Edit) else part
        own.append(chosen)
        problems.append("")
        gains = gains.then(chosen)
        if edit is not None and isinstance(part, Edit):
            words, choices = {**edit.words, **part.words}, (*edit.choices, *part.choices)
            edit = replace(edit, gains=gains, words=words, choices=choices)
    return Draft(gains, tuple(own), tuple(problems), edit)


def _edited(explorer: Explorer, item: Item) -> Edit:
    """Return the edit of one item, by the model."""
    if item.concept is None:
        return replace(explorer.editor.edit(), gains=_of_vector(explorer.decomposition, item))
    found = _suppressed(explorer, item.concept)
    gain = float(item.gain)
    named = {key: dict.fromkeys(words, direction_of(gain)) for key, words in found.gains.named.items()}
    return replace(found, gains=replace(found.gains, gain=dict.fromkeys(found.gains.gain, gain), named=named))


@lru_cache(maxsize=128)
def _suppressed(explorer: Explorer, concept: str) -> Edit:
    """Return the edit that suppresses a concept: a gain changes nothing about the choice of vectors."""
    with explorer.running():
        return explorer.editor.suppress(concept)


@lru_cache(maxsize=4)
def _shares(explorer: Explorer) -> Tensor | None:
    """Return what :func:`drift_shares` does; None for a tower without a way to the joint space."""
    tower = explorer.editor.tower
    return drift_shares(tower, explorer.decomposition) if tower.has_joint else None


def _chosen(explorer: Explorer, item: Item) -> Gains:
    """Return the gains of one item, without the model."""
    decomposition = explorer.decomposition
    if item.concept is None:
        return _of_vector(decomposition, item)
    decomposition.require_words()
    if not decomposition.has(item.concept):
        raise InputError(f"{item.concept} is no concept of an explanation: it needs the model (--model)")
    queries = {item.concept: decomposition.embedding_of(item.concept)}
    found = by_concepts(decomposition, queries, item.gain)
    if not found:
        most = float(share_of(decomposition, queries).max())
        raise InputError(
            f"no explanation is mostly about {item.concept} (the largest share is {most:.0%}, and "
            f"{SHARE_THRESHOLD:.0%} is needed); with the model (--model), the vectors that carry it are found"
        )
    return found


def _of_vector(decomposition: Decomposition, item: Item) -> Gains:
    layer, head, vector = item.vector or (0, 0, 0)
    return by_name(decomposition, item.gain, layers=[layer], heads=[head], vectors=[vector])


def _nothing(basket: Basket) -> Draft:
    count = len(basket.items)
    return Draft(Gains(), (Gains(),) * count, ("",) * count, None)


def _item(
    decomposition: Decomposition, item: Item, gains: Gains, problem: str, taken: float | None, edit: Edit | None
) -> ItemView:
    words = "" if problem else words_of(decomposition, item)
    choices = () if edit is None else [choice for choice in edit.choices if choice.word == item.concept]
    left_out = tuple(
        "layer {}, head {}, vector {}: ".format(*key) + why for choice in choices for key, why in choice.left_out
    )
    return ItemView(item.key, item.name, words, item.gain, len(gains), taken, problem, left_out)


def words_of(decomposition: Decomposition, item: Item) -> str:
    """Return the words of a vector, without those of silent poles; none for a concept."""
    if item.vector is None or not decomposition.has_words:
        return ""
    return poles_label([decomposition.explain(*item.vector, pole) for pole in decomposition.poles], quiet=True)


def _by_chance(impact: Impact) -> str:
    few = "1 vector has" if impact.by_chance == 1 else f"{impact.by_chance} vectors have"
    return f"{few} no words beyond chance: what the edit does there is not explained"
