"""``TowerRun``: the part of a run in one tower, from its decomposition to its edit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec
from sith_hf.files import ResumableJob
from sith_hf.gains import Gains, Impact, impact_of
from sith_hf.recipe.choose import ChosenEdit, choose
from sith_hf.recipe.existing import Existing, open_existing
from sith_hf.recipe.inputs import decompose_with
from sith_hf.recipe.recipe import Recipe

DECOMPOSITION, SPEC = "decomposition", "spec"
"""The folders of a run; those of a second tower end with :func:`suffix_of`."""


@dataclass(frozen=True, eq=False)
class TowerResult:
    """The edit of one tower.

    Attributes:
        decomposition: the explained vectors.
        gains: the chosen vectors and the protected ones, with reasons.
        spec: the edit.
        impact: how much of the tower the edit changes.
    """

    decomposition: Decomposition
    gains: Gains
    spec: EditSpec
    impact: Impact

    @property
    def tower(self) -> str:
        """The tower, ``"vision"`` or ``"text"``."""
        return self.decomposition.tower

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "edited_vectors": len(self.spec),
            "spared_vectors": len(self.gains.protected),
            "impact": self.impact.to_json(),
        }

    def __str__(self) -> str:
        protected = f", {len(self.gains.protected)} left unchanged" if self.gains.protected else ""
        where = "" if self.tower == "vision" else f" of the {self.tower} tower"
        return f"{len(self.spec)} singular vectors edited in layers {self.spec.layers}{where}{protected}"


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
        return TowerResult(self.decomposition, self.chosen.gains, self.chosen.spec, self.impact)

    def save(self, work: Path, suffix: str) -> None:
        """Write the decomposition, the spec and the scores of judges into the folder of a run."""
        place = work / f"{DECOMPOSITION}{suffix}"
        if self.existing is None:
            self.decomposition.save_pretrained(place)
        else:
            self.existing.copy_to(place)
        self.chosen.spec.save_pretrained(work / f"{SPEC}{suffix}")
        for name, scores in self.chosen.scores.items():
            scores.save_pretrained(work / "scores" / name)


def suffix_of(recipe: Recipe, tower: str) -> str:
    """Return the end of the names of a tower's folders: nothing for the first tower of a recipe."""
    return "" if tower == recipe.towers[0] else f"-{tower}"


def run_tower(
    recipe: Recipe,
    editor: SithEditor,
    folder: Path,
    concepts: ConceptDictionary | None = None,
    *,
    job: ResumableJob,
    token: str | None = None,
    servers: Iterable[str] = (),
    transcripts: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
    progress: bool = False,
) -> TowerRun:
    """Decompose the tower of ``editor``, or read its decomposition, and choose the recipe's edit of it.

    Args:
        recipe: the recipe.
        editor: an editor of the tower.
        folder: the folder that relative paths of the recipe start from.
        concepts: the recipe's dictionary, encoded, if it is at hand.
        job: stores finished parts.
        token, servers, transcripts, say, progress: as for :func:`sith_hf.recipe.choose.choose`.

    Raises:
        InputError: as for :func:`sith_hf.recipe.inputs.decompose_with`, :func:`sith_hf.recipe.existing.open_existing`
            and :func:`sith_hf.recipe.choose.choose`.
        LargeEdit: the edit exceeds a limit on energy or drift, and the recipe has no ``large_edit: true``.
    """
    existing = None
    if recipe.step_of(editor.tower.kind).from_ is not None:
        existing = open_existing(recipe, editor, folder, token=token)
        concepts, decomposition = existing.concepts, existing.decomposition
    else:
        first = concepts is None
        concepts, decomposition = decompose_with(recipe, editor, folder, concepts, job=job, progress=progress)
        if first and concepts.duplicates:
            say(f"{concepts.duplicates} repeated concepts left out of the dictionary")
    chosen = choose(
        recipe, editor, decomposition, concepts, folder,
        token=token, servers=servers, transcripts=transcripts, say=say, progress=progress,
    )  # fmt: skip
    where = "" if len(recipe.towers) == 1 else f"{editor.tower.kind} tower: "
    say(f"{where}{len(chosen.spec)} singular vectors chosen, {len(chosen.gains.protected)} left unchanged")
    impact = impact_of(editor.tower, decomposition, chosen.gains.gain)
    say(f"{where}the edit changes {impact}")
    if not recipe.large_edit:
        impact.check("write large_edit: true in the recipe (--set large_edit=true)")
    return TowerRun(editor, concepts, decomposition, existing, chosen, impact)
