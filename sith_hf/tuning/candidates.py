"""The vectors that a search may choose, with their gains and how much each is about the recipe's topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sith_hf.decomposition import Decomposition
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError
from sith_hf.gains import Gains, Scores, Selection, VectorKey, topic_shares
from sith_hf.recipe import ChosenEdit, Recipe

# A judge's scores start above 1, and shares above 0: the lowest thresholds that the rules accept.
_LOWEST_SCORE, _LOWEST_SHARE = 1.0 + 1e-4, 1e-6


@dataclass(frozen=True, eq=False)
class Candidates:
    """N vectors.

    Attributes:
        keys: their (layer, head, vector).
        gain: the gain of each by the recipe, at strength 1.
        share: how much each is about the topic, from 0 to 1; 1 for those that a rule without a threshold chooses.
    """

    keys: tuple[VectorKey, ...]
    gain: Mapping[VectorKey, float] = field(repr=False)
    share: Mapping[VectorKey, float] = field(repr=False)

    def of(self, layers: tuple[int, ...], threshold: float) -> tuple[VectorKey, ...]:
        """Return the vectors of some layers with at least a share, in order."""
        return tuple(key for key in self.keys if key[0] in layers and self.share[key] >= threshold)


def loosened(recipe: Recipe) -> Recipe:
    """Return the recipe with the lowest threshold in every edit that has one, so that it chooses all candidates."""
    edits = []
    for step in recipe.edits:
        low = {"share": _LOWEST_SHARE, "threshold": _LOWEST_SCORE, "budget": _LOWEST_SCORE}.get(step.rule)
        changed: dict[str, Any] = {} if low is None else {"threshold": low}
        if step.rule == "budget":
            changed["limit"] = 2.0  # a search has limits of its own
        edits.append(step.model_copy(update=changed))
    return recipe.model_copy(update={"edits": tuple(edits)})


def candidates_of(
    recipe: Recipe, decomposition: Decomposition, choose: Callable[[Recipe], ChosenEdit], layers: tuple[int, ...]
) -> Candidates:
    """Return the vectors that a search may choose.

    Those that the recipe's edits choose at their lowest thresholds count. If ``thresholds`` start at 0, so do all other
    vectors of the layers, except protected ones.

    Args:
        recipe: a recipe with ``tune``, whose edits are of the vision tower.
        decomposition: the explained vectors.
        choose: chooses by the edits of a recipe (:func:`sith_hf.recipe.choose`).
        layers: all layers of the search.

    Raises:
        InputError: edits of the text tower, or no vector in the layers.
    """
    if recipe.towers != ("vision",):
        raise InputError(
            "tune searches edits of the vision tower: leave out edits with tower: text, and tune the others"
        )
    chosen = choose(loosened(recipe))
    shares = _shares(recipe, decomposition, chosen)
    gain = {key: value for key, value in chosen.gains.gain.items() if key[0] in layers and value != 1}
    share = {key: shares[key] for key in gain}
    step = recipe.tune
    plain = next((edit.gain for edit in recipe.edits if edit.rule in ("share", "threshold", "budget")), None)
    if step is not None and step.thresholds[0] == 0 and plain is not None:
        for key, _ in Selection(layers).vectors(decomposition):
            if key not in gain and key not in chosen.gains.protected:
                gain[key], share[key] = plain, 0.0
    if not gain:
        raise InputError(f"the edits choose no vector in layers {list(layers)}: name other layers (tune.layers)")
    return Candidates(tuple(sorted(gain)), gain, share)


def _shares(recipe: Recipe, decomposition: Decomposition, chosen: ChosenEdit) -> dict[VectorKey, float]:
    """Return the share of each chosen vector: the largest that an edit finds."""
    found: dict[VectorKey, float] = {}
    by_judge: list[Tensor] = []
    for number, step in enumerate(recipe.edits):
        if step.rule in ("threshold", "budget"):
            scores: Scores = chosen.scores[f"{number}-judge"]
            by_judge.append(topic_shares(scores, decomposition, Selection(both_poles=step.both_poles)))
    judged = torch.stack(by_judge).amax(dim=0) if by_judge else None
    for key in chosen.gains.gain:
        own = [item.share for item in chosen.gains.evidence.get(key, ()) if item.cosine is None]
        own += [] if judged is None else [float(judged[decomposition.place(*key)])]
        found[key] = max(own) if own and max(own) > 0 else 1.0
    return found


def terms_of(every: EditSpec, gains: Mapping[VectorKey, float]) -> EditSpec:
    """Return the edit with some of the vectors of ``every``, by their gains; equal to one made anew.

    Args:
        every: the terms of all candidates.
        gains: the gains of the chosen vectors.
    """
    place = {key: i for i, key in enumerate(every.keys)}
    index = [place[key] for key in gains]
    fields = {**vars(every), **{name: tensor[index] for name, tensor in every.tensors.items()}}
    fields["gain"] = torch.tensor([gains[key] for key in gains], dtype=torch.float64)
    fields["labels"] = tuple(every.labels[i] for i in index)
    fields["provenance"] = None
    return EditSpec.from_terms(**fields)


def every_term(candidates: Candidates, make: Callable[[Gains], EditSpec]) -> EditSpec:
    """Return the terms of all candidates, as if each were removed."""
    return make(Gains(dict.fromkeys(candidates.keys, 0.0)))
