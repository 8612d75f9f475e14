"""Run a recipe: from its YAML to an edited checkpoint, with all intermediate results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sith_hf.checkpoint import SITH, SavedCheckpoint, locate, write_card
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_text
from sith_hf.core.strict_yaml import write_yaml
from sith_hf.decomposition import Decomposition
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError, MissingExtra, SithError
from sith_hf.evaluation import Evaluation, worst_against_average
from sith_hf.files import ResumableJob, new_folder, write_whole
from sith_hf.gains import Gains
from sith_hf.images import BASE, model_variants, preprocessing_warning
from sith_hf.recipe.choose import choose
from sith_hf.recipe.existing import PLACE, open_existing
from sith_hf.recipe.inputs import decompose_with, open_base, request_sha256
from sith_hf.recipe.measure import measure_edit
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.resolve import resolve, shareable
from sith_hf.recipe.servers import check_servers, named_servers

RECIPE = "recipe.yaml"
# The request that a folder answers, and what its other files do not hold.
REQUEST = ".request.json"
# Of files of the base that are left out, in the text of a result.
MOST_LINES = 30


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
        saved: the edited checkpoint, with the files of the base that it leaves out.
    """

    folder: Path
    decomposition: Decomposition
    gains: Gains
    spec: EditSpec
    evaluation: Evaluation | None
    saved: SavedCheckpoint

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "folder": str(self.folder),
            "checkpoint": str(self.folder / "edited"),
            "recipe": str(self.folder / RECIPE),
            "edited_vectors": len(self.spec),
            "spared_vectors": len(self.gains.protected),
            "left_out": list(self.saved.left_out),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def __str__(self) -> str:
        protected = f", {len(self.gains.protected)} left unchanged" if self.gains.protected else ""
        lines = [f"{len(self.spec)} singular vectors edited in layers {self.spec.layers}{protected}"]
        lines += [] if self.evaluation is None else [self.evaluation.table()]
        lines += [f"left out {sanitize(name)}: {reason}" for name, reason in self.saved.reasons.items()][:MOST_LINES]
        return "\n".join([*lines, f"{self.folder / 'edited'} (publish it with sith-hf push-edited)"])


def run_recipe(
    recipe: str | Path | Recipe,
    folder: str | Path,
    *,
    overrides: Iterable[str] = (),
    include: Iterable[str] = (),
    servers: Iterable[str] = (),
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
        folder: the folder of the results. Those of the same recipe and inputs are read and returned.
        overrides: ``key.key=value``, for a recipe that is read from YAML (see :func:`sith_hf.recipe.source.load_data`).
        include: patterns of more files of the base to copy, such as ``*.txt``: no links, pickles or other weights.
        servers: servers of language models that may get the token in ``SITH_HF_JUDGE_TOKEN`` and the concepts, besides
            those that ``overrides`` name and ``SITH_HF_JUDGE_URL``. A recipe alone cannot choose them.
        overwrite: replace the results of an earlier run. Other files in the folder are never replaced.
        token: a token for the Hub.
        say: called with a line for each step.
        progress: show bars on stderr.

    Raises:
        InputError: a recipe, base, dictionary, dataset, judge or folder that cannot be used, or an edit that changes
            nothing.
        HubError: a server of a judge refused, failed or could not be reached.
        OutputError: the results could not be written; ``folder`` is unchanged.
    """
    overrides = tuple(overrides)
    if isinstance(recipe, Recipe):
        if overrides:
            raise InputError("overrides need a recipe that is read from YAML; change the Recipe itself instead")
        plan, home = recipe, Path.cwd()
    else:
        plan, home = Recipe.load(recipe, overrides)
    if plan.fidelity is not None:
        raise InputError("this recipe measures fidelity and edits nothing; use sith-hf run, or run_fidelity in Python")
    named = [*servers, *named_servers(overrides)]
    check_servers(plan, named)
    target = Path(folder)
    _check_target(target, home)

    def report(line: str) -> None:
        say(sanitize(line, 1000))

    report(f"{plan.title}: opening {plan.base.model}")
    editor = open_base(plan.base, home, token=token)
    base = locate(editor.loaded.folder or editor.loaded.name, editor.loaded.revision, token)
    request = request_sha256(plan, tuple(include), editor, home)

    with ExitStack() as held:
        kept = held.enter_context(ResumableJob.beside(target))
        if not overwrite and (earlier := _earlier(target, request)):
            report(f"{plan.title}: {target} already has the results")
            return earlier
        work = held.enter_context(new_folder(target, source=base, overwrite=overwrite))
        existing = None if plan.decompose.from_ is None else open_existing(plan, editor, home, token=token)
        concepts: ConceptDictionary | None
        if existing is None:
            concepts, decomposition = decompose_with(plan, editor, home, job=kept, progress=progress)
        else:
            concepts, decomposition = existing.concepts, existing.decomposition
        if concepts is not None and concepts.duplicates:
            report(f"{concepts.duplicates} repeated concepts left out of the dictionary")
        chosen = choose(
            plan, editor, decomposition, concepts, home,
            token=token, servers=named, transcripts=work / "transcripts", say=report, progress=progress,
        )  # fmt: skip
        report(f"{len(chosen.spec)} singular vectors chosen, {len(chosen.gains.protected)} left unchanged")
        found, sweep = None, None
        if plan.evaluate is not None:
            (base_variant,) = model_variants(editor, {BASE: None})
            if (warning := preprocessing_warning(plan.base.model, base_variant.processor)) is not None:
                report(warning)
            found, sweep = measure_edit(plan.evaluate, editor, decomposition, chosen.gains, home, progress=progress)
        seen = {task.name: task.data_sha256 for task in found.tasks} if found else {}
        if existing is None:
            decomposition.save_pretrained(work / PLACE)
        else:
            existing.copy_to(work)
        chosen.spec.save_pretrained(work / "spec")
        for name, scores in chosen.scores.items():
            scores.save_pretrained(work / "scores" / name)
        resolved = resolve(plan, editor, decomposition, concepts, chosen, home, work, seen)
        text = write_yaml(resolved.model_dump(mode="json"), f"{plan.title}: as it was run. Run it again: sith-hf run")
        write_whole(work / RECIPE, text.encode("utf-8"))
        saved = editor.save_pretrained(work / "edited", chosen.spec, include=include, progress=progress)
        shared = write_yaml(shareable(resolved).model_dump(mode="json"), plan.title)
        write_whole(work / "edited" / SITH / RECIPE, shared.encode("utf-8"))
        if found is not None:
            swept = {} if sweep is None else {"sweep": sweep.to_json()}
            write_whole(work / "results.json", _json(found.to_json() | swept))
            write_whole(work / "edited" / SITH / "evaluation.json", _json(found.card()))
        write_card(work / "edited")  # again, with the recipe and the results
        protected = [[*key, reason] for key, reason in chosen.gains.protected.items()]
        copied = {"changed": dict(saved.changed), "left_out": dict(saved.reasons)}
        write_whole(work / REQUEST, _json({"request": request, "protected": protected, **copied}))
        if sweep is not None:
            try:
                worst_against_average(sweep, work / "sweep.png")
            except MissingExtra as error:
                report(f"the plot of the sweep was not drawn: {error}")
    return RunResult(target, decomposition, chosen.gains, chosen.spec, found, replace(saved, folder=target / "edited"))


def _earlier(folder: Path, request: str) -> RunResult | None:
    """Read the results in ``folder`` of a run with this request; None if there are none."""
    try:
        data = json.loads(read_text(folder / REQUEST))
        if data["request"] != request:
            return None
        changed, left_out = dict(data["changed"]), dict(data["left_out"])
        protected = {(layer, head, vector): reason for layer, head, vector, reason in data["protected"]}
        decomposition = Decomposition.from_pretrained(folder / "decomposition")
        spec = EditSpec.from_pretrained(folder / "spec")
        results = folder / "results.json"
        evaluation = Evaluation.from_file(results) if results.is_file() else None
    except (SithError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    reasons = () if spec.provenance is None else spec.provenance.reasons
    keys = [*map(tuple, torch.stack([spec.layer, spec.head, spec.vector], dim=1).tolist())]
    gains = Gains(dict(zip(keys, spec.gain.tolist(), strict=True)), dict(zip(keys, reasons, strict=False)), protected)
    saved = SavedCheckpoint(folder / "edited", changed, tuple(left_out), left_out)
    return RunResult(folder, decomposition, gains, spec, evaluation, saved)


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
