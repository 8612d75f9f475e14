"""Run a recipe: from its YAML to an edited checkpoint, with all intermediate results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sith_hf.checkpoint import SITH, locate
from sith_hf.core.escaping import sanitize
from sith_hf.decomposition import Decomposition
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError, MissingExtra
from sith_hf.evaluation import Evaluation, worst_against_average
from sith_hf.files import ResumableJob, new_folder, write_whole
from sith_hf.gains import Gains, Impact, impact_of
from sith_hf.recipe.choose import choose
from sith_hf.recipe.inputs import decompose_with, open_base
from sith_hf.recipe.measure import measure_edit
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.resolve import resolve, shareable
from sith_hf.recipe.source import load_data
from sith_hf.recipe.strict_yaml import write_yaml

RECIPE = "recipe.yaml"


@dataclass(frozen=True, eq=False)
class RunResult:
    """The results of a run.

    Attributes:
        folder: the folder with ``edited/``, ``spec/``, ``decomposition/``, ``scores/``, ``results.json``,
            ``sweep.png`` and ``recipe.yaml``, if the recipe has these parts.
        decomposition: the explained vectors.
        gains: the chosen vectors and the protected ones, with reasons.
        spec: the edit.
        evaluation: the evaluation; None if the recipe has none.
        impact: how much of the model the edit changes.
    """

    folder: Path
    decomposition: Decomposition
    gains: Gains
    spec: EditSpec
    evaluation: Evaluation | None
    impact: Impact

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "folder": str(self.folder),
            "checkpoint": str(self.folder / "edited"),
            "recipe": str(self.folder / RECIPE),
            "edited_vectors": len(self.spec),
            "spared_vectors": len(self.gains.protected),
            "impact": self.impact.to_json(),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def __str__(self) -> str:
        protected = f", {len(self.gains.protected)} left unchanged" if self.gains.protected else ""
        lines = [f"{len(self.spec)} singular vectors edited in layers {self.spec.layers}{protected}"]
        lines += [] if self.evaluation is None else [self.evaluation.table()]
        return "\n".join([*lines, f"{self.folder / 'edited'} (publish it with sith-hf push-edited)"])


def run_recipe(
    recipe: str | Path | Recipe,
    folder: str | Path,
    *,
    overrides: Iterable[str] = (),
    overwrite: bool = False,
    token: str | None = None,
    say: Callable[[str], object] = lambda line: None,
    progress: bool = False,
) -> RunResult:
    """Run a recipe: decompose, choose, edit, evaluate and write.

    The folder appears when everything in it is complete. Its ``recipe.yaml`` has every default, every fingerprint and
    every answer of a judge: running it gives the same bytes. Until then, finished parts of the decomposition are in
    ``FOLDER.work``, and answers of judges in their caches; the next run continues from there.

    Args:
        recipe: a YAML file, the name of a recipe that comes with sith-hf, or a recipe in memory.
        folder: the folder of the results.
        overrides: ``key.key=value``, for a recipe that is read from YAML (see :func:`sith_hf.recipe.source.load_data`).
        overwrite: replace the results of an earlier run. Other files in the folder are never replaced.
        token: a token for the Hub.
        say: called with a line for each step.
        progress: show bars on stderr.

    Raises:
        InputError: a recipe, base, dictionary, dataset, judge or folder that cannot be used, or an edit that changes
            nothing.
        LargeEdit: the edit exceeds a limit on energy or drift, and the recipe has no ``large_edit: true``.
        HubError: a server of a judge refused, failed or could not be reached.
        OutputError: the results could not be written; ``folder`` is unchanged.
    """
    if isinstance(recipe, Recipe):
        if tuple(overrides):
            raise InputError("overrides need a recipe that is read from YAML; change the Recipe itself instead")
        plan, home = recipe, Path.cwd()
    else:
        data, home = load_data(recipe, overrides)
        plan = Recipe.from_data(data, str(recipe))
    target = Path(folder)
    _check_target(target, home)

    def report(line: str) -> None:
        say(sanitize(line, 1000))

    report(f"{plan.title}: opening {plan.base.model}")
    editor = open_base(plan.base, home, token=token)
    base = locate(editor.loaded.folder or editor.loaded.name, editor.loaded.revision, token)

    with ResumableJob.beside(target) as kept, new_folder(target, source=base, overwrite=overwrite) as work:
        concepts, decomposition = decompose_with(plan, editor, home, job=kept, progress=progress)
        chosen = choose(
            plan, editor, decomposition, concepts, home,
            token=token, transcripts=work / "transcripts", say=report, progress=progress,
        )  # fmt: skip
        report(f"{len(chosen.spec)} singular vectors chosen, {len(chosen.gains.protected)} left unchanged")
        impact = impact_of(editor.tower, decomposition, chosen.gains.gain)
        report(f"the edit changes {impact}")
        if not plan.large_edit:
            impact.check("write large_edit: true in the recipe (--set large_edit=true)")
        found, sweep = None, None
        if plan.evaluate is not None:
            found, sweep = measure_edit(plan.evaluate, editor, decomposition, chosen.gains, home, progress=progress)
        seen = {task.name: task.data_sha256 for task in found.tasks} if found else {}
        decomposition.save_pretrained(work / "decomposition")
        chosen.spec.save_pretrained(work / "spec")
        for name, scores in chosen.scores.items():
            scores.save_pretrained(work / "scores" / name)
        resolved = resolve(plan, editor, decomposition, concepts, chosen, home, work, seen)
        text = write_yaml(resolved.model_dump(mode="json"), f"{plan.title}: as it was run. Run it again: sith-hf run")
        write_whole(work / RECIPE, text.encode("utf-8"))
        editor.save_pretrained(work / "edited", chosen.spec, progress=progress)
        shared = write_yaml(shareable(resolved).model_dump(mode="json"), plan.title)
        write_whole(work / "edited" / SITH / RECIPE, shared.encode("utf-8"))
        if found is not None:
            swept = {} if sweep is None else {"sweep": sweep.to_json()}
            write_whole(work / "results.json", _json(found.to_json() | swept))
            write_whole(work / "edited" / SITH / "evaluation.json", _json(found.card()))
        if sweep is not None:
            try:
                worst_against_average(sweep, work / "sweep.png")
            except MissingExtra as error:
                report(f"the plot of the sweep was not drawn: {error}")
    return RunResult(target, decomposition, chosen.gains, chosen.spec, found, impact)


def _check_target(target: Path, home: Path) -> None:
    """Raise InputError for a folder that a run must never replace."""
    try:
        there = target.resolve()
        occupied = there.is_dir() and any(there.iterdir())
    except (OSError, RuntimeError, ValueError) as error:
        shown = sanitize(str(target))
        raise InputError(f"{shown} cannot be used as a folder ({sanitize(str(error))}); name a new folder") from None
    ours = (there / "spec").is_dir() and (there / RECIPE).is_file()
    if there in (cwd := Path.cwd().resolve(), *cwd.parents) or (there in (home, *home.parents) and not ours):
        raise InputError(f"{target} contains the current folder or the recipe; name a folder for the results only")
    if occupied and not ours:
        raise InputError(f"{target} is not empty and was not written by an earlier run; name a new folder")


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
