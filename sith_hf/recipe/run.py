"""Run a recipe: from its YAML to an edited checkpoint with everything that led to it beside it."""

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
from sith_hf.gains import Gains
from sith_hf.recipe.choose import choose
from sith_hf.recipe.inputs import decompose_with, open_base
from sith_hf.recipe.measure import MeasuredEdit, measure_edit
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.resolve import resolve, shareable
from sith_hf.recipe.source import RecipeSource
from sith_hf.recipe.strict_yaml import write_yaml

RECIPE = "recipe.yaml"


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run made.

    Attributes:
        folder: where it stands: ``edited/``, ``spec/``, ``decomposition/``, ``scores/``, ``results.json``,
            ``sweep.png`` and ``recipe.yaml``, as far as the recipe asks for them.
        decomposition: the explained vectors.
        gains: what was chosen and what was left unchanged, with reasons.
        spec: the edit.
        evaluation: what was measured; None where the recipe measures nothing.
    """

    folder: Path
    decomposition: Decomposition
    gains: Gains
    spec: EditSpec
    evaluation: Evaluation | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "folder": str(self.folder),
            "checkpoint": str(self.folder / "edited"),
            "recipe": str(self.folder / RECIPE),
            "edited_vectors": len(self.spec),
            "spared_vectors": len(self.gains.protected),
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
    """Decompose, choose, edit, measure and write, as a recipe says.

    The folder appears when everything in it is whole. Its ``recipe.yaml`` has every default, every fingerprint and
    every answer of a judge: running it gives the same bytes. Until then finished parts of the decomposition stay in
    ``FOLDER.work``, and answers of judges in their caches: after an interruption or a mistake in a later step, the
    next run continues from there.

    Args:
        recipe: a YAML file, the name of one that comes with sith-hf, or a recipe in memory.
        folder: where to.
        overrides: ``key.key=value`` (see :meth:`sith_hf.recipe.RecipeSource.load`).
        overwrite: replace what an earlier run wrote there. Anything else there is never replaced.
        token: for the Hub.
        say: called with a line for each step.
        progress: show bars on stderr.

    Raises:
        InputError: a recipe, base, dictionary, dataset, judge or folder that cannot be used, or an edit that changes
            nothing.
        HubError: a judge on a server refused, failed or could not be reached.
        OutputError: the results could not be written; nothing stands under ``folder``.
    """
    if isinstance(recipe, Recipe):
        if tuple(overrides):
            raise InputError("overrides go with a recipe that is read from YAML")
        plan, home = recipe, Path.cwd()
    else:
        source = RecipeSource.load(recipe, overrides)
        plan, home = Recipe.from_data(source.data, source.name), source.folder
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
            plan,
            editor,
            decomposition,
            concepts,
            home,
            token=token,
            transcripts=work / "transcripts",
            say=report,
            progress=progress,
        )
        report(f"{len(chosen.spec)} singular vectors chosen, {len(chosen.gains.protected)} left unchanged")
        measured: MeasuredEdit | None = None
        if plan.evaluate is not None:
            measured = measure_edit(plan.evaluate, editor, decomposition, chosen.gains, home, progress=progress)
        seen = None
        if measured is not None:
            seen = {task.name: task.data_sha256 for task in measured.evaluation.tasks}
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
        if measured is not None:
            write_whole(work / "results.json", _json(measured.to_json()))
            write_whole(work / "edited" / SITH / "evaluation.json", _json(measured.evaluation.card()))
            if measured.sweep is not None:
                try:
                    worst_against_average(measured.sweep, work / "sweep.png")
                except MissingExtra as error:
                    report(f"no picture of the sweep: {error}")
    return RunResult(
        target, decomposition, chosen.gains, chosen.spec, None if measured is None else measured.evaluation
    )


def _check_target(target: Path, home: Path) -> None:
    """Raises InputError for a folder that a run must not replace, whatever its user allows."""
    try:
        there = target.resolve()
        entries = [entry.name for entry in there.iterdir()] if there.is_dir() else []
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{sanitize(str(target))} is no place for a folder ({sanitize(str(error))}); name another"
        ) from None
    ours = (there / "spec").is_dir() and (there / RECIPE).is_file()
    if there in (cwd := Path.cwd().resolve(), *cwd.parents) or (there in (home, *home.parents) and not ours):
        raise InputError(f"{target} holds this folder or the recipe itself; name a folder of its own for the results")
    if entries and not ours:
        raise InputError(f"{target} is not empty, and holds something that no run wrote; name a new folder")


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
