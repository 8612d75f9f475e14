"""Run a recipe: from its YAML to an edited checkpoint, with all intermediate results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from sith_hf.checkpoint import SITH, SavedCheckpoint, locate, write_card
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.distributed import SINGLE, Processes
from sith_hf.core.escaping import sanitize
from sith_hf.core.strict_yaml import write_yaml
from sith_hf.editor import Proof, SithEditor
from sith_hf.edits import AnySpec, EditEffect, combined
from sith_hf.errors import InputError, MissingExtra
from sith_hf.evaluation import Evaluation, Sweep, worst_against_average
from sith_hf.files import ResumableJob, new_folder, write_whole
from sith_hf.gains import impact_of
from sith_hf.images import BASE, model_variants, preprocessing_warning
from sith_hf.recipe.choose import choose
from sith_hf.recipe.existing import open_existing
from sith_hf.recipe.inputs import decompose_with, of_tower, open_base
from sith_hf.recipe.measure import measure_edit
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.request import request_sha256
from sith_hf.recipe.resolve import resolve, shareable
from sith_hf.recipe.result import RECIPE, SPEC, RunResult, check_target, finished_run, json_bytes, record_request
from sith_hf.recipe.servers import check_servers, named_servers
from sith_hf.recipe.tower_run import TowerRun, suffix_of


def run_recipe(
    recipe: str | Path | Recipe,
    folder: str | Path,
    *,
    overrides: Iterable[str] = (),
    include: Iterable[str] = (),
    servers: Iterable[str] = (),
    overwrite: bool = False,
    token: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    processes: Processes = SINGLE,
    say: Callable[[str], object] = lambda line: None,
    progress: bool = False,
) -> RunResult:
    """Run a recipe: decompose, choose, edit, evaluate and write.

    The folder appears when everything in it is complete. Its ``recipe.yaml`` has every default, every fingerprint and
    every answer of a judge: running it gives the same bytes. Until then, finished parts of the decomposition and of
    the evaluation are in ``FOLDER.work``, and answers of judges in their caches; the next run continues from there.

    Args:
        recipe: a YAML file, the name of a recipe that comes with sith-hf, or a recipe in memory.
        folder: the folder of the results. Those of the same recipe and inputs are read and returned.
        overrides: ``key.key=value``, for a recipe that is read from YAML (see :func:`sith_hf.recipe.source.load_data`).
        include: patterns of more files of the base to copy, such as ``*.txt``: no links, pickles or other weights.
        servers: servers of language models that may get the token in ``SITH_HF_JUDGE_TOKEN`` and the concepts, besides
            those that ``overrides`` name and ``SITH_HF_JUDGE_URL``. A recipe alone cannot choose them.
        overwrite: replace the results of an earlier run. Other files in the folder are never replaced.
        token: a token for the Hub.
        device, dtype: of the base, as for :meth:`sith_hf.editor.SithEditor.from_pretrained`; a dtype that rounds the
            weights is refused.
        processes: share decomposition and evaluation, and all return the result. The main process alone asks judges,
            writes and says something.
        say: called with a line for each step.
        progress: show bars on stderr.

    Raises:
        InputError: a recipe, base, dictionary, dataset, judge or folder that cannot be used, or an edit that changes
            nothing.
        LargeEdit: the edit exceeds a limit on energy or drift, and the recipe has no ``large_edit: true``.
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
    processes.on_main(lambda: check_target(target, home, SPEC))
    progress = progress and processes.is_main

    def report(line: str) -> None:
        if processes.is_main:
            say(sanitize(line, 1000))

    report(f"{plan.title}: opening {plan.base.model}")
    editor = processes.each(lambda: open_base(plan.base, home, token=token, device=device, dtype=dtype))
    editors = processes.each(lambda: {suffix_of(plan, tower): of_tower(editor, tower) for tower in plan.towers})
    base = processes.main_only(
        lambda: locate(editor.loaded.folder or editor.loaded.name, editor.loaded.revision, token)
    )
    request = processes.on_main(lambda: request_sha256(plan, tuple(include), editor, home))

    with ResumableJob.beside(target, processes) as kept, ExitStack() as held:
        if not overwrite and (earlier := processes.on_main(lambda: finished_run(target, request, editors))):
            report(f"{plan.title}: {target} already has the results")
            return earlier
        work = processes.on_main(lambda: held.enter_context(new_folder(target, source=base, overwrite=overwrite)))
        towers: list[TowerRun] = []
        for each in editors.values():
            towers.append(
                _run_tower(
                    plan, each, home, towers[0].concepts if towers else None, job=kept,
                    token=token, servers=named, transcripts=work / "transcripts", say=report, progress=progress,
                )
            )  # fmt: skip
        spec = combined(*(run.chosen.spec for run in towers))
        effect = processes.on_main(
            lambda: None if base is None else _proved(Proof(editor=editor, say=report, progress=progress), base, spec)
        )
        found, sweep = None, None
        if plan.evaluate is not None:
            (base_variant,) = model_variants(editor, {BASE: None})
            if (warning := preprocessing_warning(plan.base.model, base_variant.processor)) is not None:
                report(warning)
            found, sweep = measure_edit(plan.evaluate, towers, home, job=kept, progress=progress)

        def write() -> RunResult:
            saved = _write(
                plan, dict(zip(editors, towers, strict=True)), found, sweep, effect, work,
                home=home, request=request, include=include, say=report, progress=progress,
            )  # fmt: skip
            held.close()  # gives the folder its name
            results = tuple(run.result for run in towers)
            return RunResult(target, results, spec, found, replace(saved, folder=target / "edited"))

        return processes.on_main(write)


def _write(
    plan: Recipe,
    towers: Mapping[str, TowerRun],
    found: Evaluation | None,
    sweep: Sweep | None,
    effect: EditEffect | None,
    work: Path,
    *,
    home: Path,
    request: str,
    include: Iterable[str],
    say: Callable[[str], object],
    progress: bool,
) -> SavedCheckpoint:
    """Write all results of a run into ``work``; ``towers`` by the end of the names of their folders."""
    runs = list(towers.values())
    seen = {task.name: task.data_sha256 for task in found.tasks} if found else {}
    for suffix, run in towers.items():
        run.save(work, suffix)
    spec = combined(*(run.chosen.spec for run in runs))
    resolved = resolve(plan, runs, home, work, seen)
    text = write_yaml(resolved.model_dump(mode="json"), f"{plan.title}: as it was run. Run it again: sith-hf run")
    write_whole(work / RECIPE, text.encode("utf-8"))
    spec.save_pretrained(work / SPEC)
    saved = runs[0].editor.save_pretrained(work / "edited", spec, include=include, effect=effect, progress=progress)
    shared = write_yaml(shareable(resolved).model_dump(mode="json"), plan.title)
    write_whole(work / "edited" / SITH / RECIPE, shared.encode("utf-8"))
    if found is not None:
        swept = {} if sweep is None else {"sweep": sweep.to_json()}
        write_whole(work / "results.json", json_bytes(found.to_json() | swept))
        write_whole(work / "edited" / SITH / "evaluation.json", json_bytes(found.card() | swept))
    write_card(work / "edited")  # again, with the recipe and the results
    if sweep is not None:
        try:
            worst_against_average(sweep, work / "sweep.png")
        except MissingExtra as error:
            say(f"the plot of the sweep was not drawn: {error}")
    record_request(work, request, tuple(run.result for run in runs), saved)
    return saved


def _proved(proof: Proof, base: Path, spec: AnySpec) -> EditEffect | None:
    """Measure an edit. Raises InputError for one without effect on what it names."""
    effect = proof(base, spec, None)
    if effect is not None:
        effect.check()
    return effect


def _run_tower(
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
        job: stores finished parts, and shares the decomposition between processes.
        token, servers, transcripts, say, progress: as for :func:`sith_hf.recipe.choose.choose`.

    Raises:
        InputError: as for :func:`sith_hf.recipe.inputs.decompose_with`, :func:`sith_hf.recipe.existing.open_existing`
            and :func:`sith_hf.recipe.choose.choose`.
        LargeEdit: the edit exceeds a limit on energy or drift, and the recipe has no ``large_edit: true``.
    """
    existing = None
    if recipe.step_of(editor.tower.kind).from_ is not None:
        existing = job.processes.each(lambda: open_existing(recipe, editor, folder, token=token))
        concepts, decomposition = existing.concepts, existing.decomposition
    else:
        first = concepts is None
        concepts, decomposition = decompose_with(recipe, editor, folder, concepts, job=job, progress=progress)
        if first and concepts.duplicates:
            say(f"{concepts.duplicates} repeated concepts left out of the dictionary")
    # A judge is asked once, and a model of language need not have the same bits everywhere.
    chosen = job.processes.on_main(
        lambda: choose(
            recipe, editor, decomposition, concepts, folder,
            token=token, servers=servers, transcripts=transcripts, say=say, progress=progress,
        )
    )  # fmt: skip
    where = "" if len(recipe.towers) == 1 else f"{editor.tower.kind} tower: "
    say(f"{where}{len(chosen.spec)} singular vectors chosen, {len(chosen.gains.protected)} left unchanged")
    impact = impact_of(editor.tower, decomposition, chosen.gains.gain)
    say(f"the edit changes {impact}")
    if not recipe.large_edit:
        impact.check("write large_edit: true in the recipe (--set large_edit=true)")
    return TowerRun(editor, concepts, decomposition, existing, chosen, impact)
