"""``TowerRun``: the part of a run in one tower, from its decomposition to its edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.gains import Gains, Impact
from sith_hf.recipe.choose import ChosenEdit
from sith_hf.recipe.existing import Existing
from sith_hf.recipe.recipe import Recipe

DECOMPOSITION = "decomposition"
"""The folder of a run's decomposition; that of a second tower ends with :func:`suffix_of`."""


@short_repr
@dataclass(frozen=True, eq=False)
class TowerResult:
    """The edit of one tower.

    Attributes:
        decomposition: the explained vectors.
        gains: the chosen vectors and the protected ones, with reasons.
        impact: how much of the tower the edit changes.
    """

    decomposition: Decomposition
    gains: Gains
    impact: Impact

    @property
    def tower(self) -> str:
        """The tower, ``"vision"`` or ``"text"``."""
        return self.decomposition.tower

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "edited_vectors": self.impact.vectors,
            "spared_vectors": len(self.gains.protected),
            "impact": self.impact.to_json(),
        }

    def __str__(self) -> str:
        protected = f", {len(self.gains.protected)} left unchanged" if self.gains.protected else ""
        where = "" if self.tower == "vision" else f" of the {self.tower} tower"
        layers = sorted({layer for (layer, _, _), gain in self.gains.gain.items() if gain != 1})
        return f"{self.impact.vectors} singular vectors edited in layers {layers}{where}{protected}"


@dataclass(frozen=True, eq=False)
class TowerRun:
    """One tower in a run.

    Attributes:
        editor: an editor of the tower.
        concepts: the dictionary, encoded; None if it is not at hand.
        decomposition: the explained vectors.
        existing: the files of the decomposition, if it was not made by this run.
        chosen: the edit.
        impact: how much of the tower the edit changes.
    """

    editor: SithEditor
    concepts: ConceptDictionary | None
    decomposition: Decomposition
    existing: Existing | None
    chosen: ChosenEdit
    impact: Impact

    @property
    def result(self) -> TowerResult:
        """What the run keeps of it."""
        return TowerResult(self.decomposition, self.chosen.gains, self.impact)

    def save(self, work: Path, suffix: str) -> None:
        """Write the decomposition and the scores of judges into the folder of a run."""
        place = work / f"{DECOMPOSITION}{suffix}"
        if self.existing is None:
            self.decomposition.save_pretrained(place)
        else:
            self.existing.copy_to(place)
        for name, scores in self.chosen.scores.items():
            scores.save_pretrained(work / "scores" / name)


def suffix_of(recipe: Recipe, tower: str) -> str:
    """Return the end of the names of a tower's folders: nothing for the first tower of a recipe."""
    return "" if tower == recipe.towers[0] else f"-{tower}"
