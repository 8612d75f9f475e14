"""Tune a recipe: rank its candidates, search on validation data, choose a point, and look at the reported data once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.devices import exact_device
from sith_hf.core.distributed import SINGLE, Processes
from sith_hf.core.escaping import sanitize
from sith_hf.core.strict_yaml import write_yaml
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits import make_spec
from sith_hf.errors import InputError, MissingExtra
from sith_hf.evaluation import Evaluation
from sith_hf.files import ResumableJob, library_versions, new_folder, write_whole
from sith_hf.gains import VectorKey, impact_of
from sith_hf.images import BASE, model_variants, ready
from sith_hf.recipe import (
    RECIPE,
    ChosenEdit,
    Recipe,
    TowerRun,
    TuneStep,
    base_sha256,
    check_servers,
    check_target,
    choose,
    decompose_with,
    file_sha256,
    json_bytes,
    measure_edit,
    named_servers,
    open_base,
    open_existing,
    request_sha256,
)
from sith_hf.tuning.candidates import Candidates, candidates_of, every_term
from sith_hf.tuning.chosen import tuned_recipe
from sith_hf.tuning.edited import Bench
from sith_hf.tuning.front import chosen_point, pareto_front
from sith_hf.tuning.objectives import DriftFigure
from sith_hf.tuning.open_objectives import Objectives, open_objectives
from sith_hf.tuning.ranking import as_part, of_part, ranked
from sith_hf.tuning.result import CHART, RESULT, TESTED, TRIALS, TuneResult, draw, finished_search, point_of
from sith_hf.tuning.search import Space, Trial, quiet, search
from sith_hf.tuning.split import check_pictures, concept_images, validation_tasks

# Weights of the collateral in the ranking: for the target alone, and for both.
TRADES = (0.0, 0.15)


def tune_recipe(
    recipe: str | Path | Recipe,
    folder: str | Path,
    *,
    overrides: Iterable[str] = (),
    servers: Iterable[str] = (),
    overwrite: bool = False,
    token: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    processes: Processes = SINGLE,
    say: Callable[[str], object] = lambda line: None,
    progress: bool = False,
) -> TuneResult:
    """Search the best trade of a recipe's target against its collateral.

    Finished rankings and trials are in ``FOLDER.work`` until the end: the next run continues there, and finds what an
    uninterrupted run finds. ``FOLDER/recipe.yaml`` is the recipe with the chosen edit, for ``sith-hf run``.

    Args:
        recipe: a YAML file, the name of a recipe that comes with sith-hf, or a recipe in memory; with ``tune``.
        folder: the folder of the results. Those of the same recipe and inputs are read and returned.
        overrides, servers, token, device, dtype, say, progress: as for :func:`sith_hf.recipe.run_recipe`.
        overwrite: replace the results of an earlier search.
        processes: share rankings and trials; the results do not depend on their number.

    Raises:
        InputError: a recipe without ``tune``, without validation data, with validation data that it reports, with a
            target or collateral that is not measured, or a base, dataset or folder that cannot be used.
        MissingExtra: Optuna is not installed.
        LargeEdit: the chosen edit exceeds a limit on energy or drift, and the recipe has no ``large_edit: true``.
        OutputError: the results could not be written; ``folder`` is unchanged.
    """
    overrides = tuple(overrides)
    if isinstance(recipe, Recipe):
        if overrides:
            raise InputError("overrides need a recipe that is read from YAML; change the Recipe itself instead")
        plan, home = recipe, Path.cwd()
    else:
        plan, home = Recipe.load(recipe, overrides)
    tasks, pictures, step = validation_tasks(plan, home), concept_images(plan, home), plan.tune
    assert step is not None
    quiet()
    named = [*servers, *named_servers(overrides)]
    check_servers(plan, named)
    target = Path(folder)
    processes.on_main(lambda: check_target(target, home, RESULT))
    progress = progress and processes.is_main

    def report(line: str) -> None:
        if processes.is_main:
            say(sanitize(line, 1000))

    report(f"{plan.title}: opening {plan.base.model}")
    editor = processes.each(lambda: open_base(plan.base, home, token=token, device=device, dtype=dtype))
    request = processes.on_main(lambda: request_sha256(plan, (), editor, home))
    with ResumableJob.beside(target, processes) as job:
        earlier = None if overwrite else processes.on_main(lambda: finished_search(target, request))
        if earlier is not None:
            report(f"{plan.title}: {target} already has the results")
            processes.on_main(partial(_forget, job))
            return earlier
        decomposition, tower = _vectors(plan, home, editor, job, tuple(named), token, report, progress)
        layers = _layer_sets(plan, decomposition)
        everywhere = tuple(sorted({layer for each in layers for layer in each}))
        # A judge is asked once, and a model of language need not have the same bits everywhere.
        candidates = processes.on_main(partial(candidates_of, plan, decomposition, tower, everywhere))
        (variant,) = model_variants(editor, {BASE: None})
        with ready((variant,), exact_device(variant.device)):
            depth, options = min(everywhere), {"progress": progress}
            seen = processes.each(
                lambda: open_objectives(
                    step, tasks, pictures, editor, variant, decomposition, candidates, depth, **options
                )
            )
            every = every_term(candidates, partial(make_spec, editor.tower, decomposition))
            drift = seen.collateral.drift if isinstance(seen.collateral, DriftFigure) else None
            bench = Bench(editor.model, every, seen.target, seen.collateral, drift)
            trials = _trials(plan, bench, candidates, layers, seen, job, report)
        front = pareto_front(trials, seen.lowest)
        chosen = chosen_point(front, seen.collateral.base, seen.lowest, step.collateral.limit)
        report(f"trial {chosen.number} chosen, {len(chosen.gains)} vectors")
        tuned = tuned_recipe(plan, editor, decomposition, chosen.gains, home)
        evaluation = _tested(tuned, home, editor, decomposition, seen.digests, processes, progress)
        record = _record(step, seen, trials, front, chosen)
        result = TuneResult(target, record, evaluation)
        processes.on_main(partial(_write, target, result, tuned, trials, job, request, overwrite, report))
        processes.on_main(partial(_forget, job))
    return result


def _vectors(
    recipe: Recipe,
    home: Path,
    editor: SithEditor,
    job: ResumableJob,
    servers: tuple[str, ...],
    token: str | None,
    say: Callable[[str], object],
    progress: bool,
) -> tuple[Decomposition, Callable[[Recipe], ChosenEdit]]:
    """Return the explained vectors, and a function that chooses by the edits of a recipe."""
    concepts: ConceptDictionary | None
    if recipe.decompose.from_ is None:
        concepts, decomposition = decompose_with(recipe, editor, home, job=job, progress=progress)
    else:
        existing = job.processes.each(lambda: open_existing(recipe, editor, home, token=token))
        concepts, decomposition = existing.concepts, existing.decomposition

    def chosen(edits: Recipe) -> ChosenEdit:
        options: dict[str, Any] = {"token": token, "servers": servers, "say": say, "progress": progress}
        return choose(edits, editor, decomposition, concepts, home, **options)

    return decomposition, chosen


def _layer_sets(recipe: Recipe, decomposition: Decomposition) -> tuple[tuple[int, ...], ...]:
    """Return the sets of layers of a search."""
    step = recipe.tune
    if step is not None and step.layers is not None:
        return tuple(dict.fromkeys(tuple(sorted(set(decomposition.resolve_layers(each)))) for each in step.layers))
    own = [decomposition.layers if edit.layers is None else edit.layers for edit in recipe.edits]
    whole = sorted({layer for each in own for layer in decomposition.resolve_layers(each)})
    # The last layer, two, four, ...: a ranking for every number of layers would take long.
    sizes = [2**i for i in range(len(whole)) if 2**i < len(whole)]
    return tuple(tuple(whole[-size:]) for size in [*sizes, len(whole)])


def _trials(
    recipe: Recipe,
    bench: Bench,
    candidates: Candidates,
    layers: tuple[tuple[int, ...], ...],
    seen: Objectives,
    job: ResumableJob,
    say: Callable[[str], object],
) -> list[Trial]:
    """Rank the candidates and run the trials; what the work folder has is not made again."""
    step = recipe.tune
    assert step is not None
    low = step.thresholds[0]
    names = {f"layers {'-'.join(map(str, own))} trade {trade:g}": (own, trade) for own in layers for trade in TRADES}
    facts = _facts(recipe, bench, candidates, seen)

    def rank(name: str) -> dict[str, torch.Tensor]:
        own, trade = names[name]
        return as_part(ranked(bench, candidates.of(own, low), candidates.gain, step.max_vectors, trade))

    orders: dict[tuple[tuple[int, ...], float], tuple[VectorKey, ...]] = {}
    for name, part in job.parts("ranking", facts, list(names), rank):
        orders[names[name]] = of_part(part)
        say(f"{len(orders)} of {len(names)} rankings of {len(candidates.keys)} vectors")

    def choose_gains(point: Mapping[str, Any]) -> dict[VectorKey, float]:
        order = orders[point["layers"], point["trade"]]
        keys = [key for key in order if candidates.share[key] >= point["threshold"]][: point["vectors"]]
        return {key: 1 + point["strength"] * (candidates.gain[key] - 1) for key in keys}

    space = Space(layers, TRADES, step.thresholds, step.strengths, step.max_vectors)
    file = None if job.folder is None else job.folder / "trials" / TRIALS
    return search(
        step, space, seen.lowest, choose_gains, bench.values, file=file, facts=facts, processes=job.processes, say=say
    )


def _facts(recipe: Recipe, bench: Bench, candidates: Candidates, seen: Objectives) -> dict[str, Any]:
    """Return everything that rankings and trials depend on."""
    step = recipe.tune
    assert step is not None
    settings = step.model_dump(mode="json", exclude={"trials": True, "validation": True, "collateral": {"limit"}})
    vectors = [[*key, candidates.gain[key], round(candidates.share[key], 6)] for key in candidates.keys]
    return {
        "tune": settings,
        "validation data": seen.data(),
        "candidates": hashlib.sha256(json.dumps(vectors).encode()).hexdigest(),
        "base": base_sha256(bench.every.base.sha256),
        "classes and templates": [task.runner.task.model_dump(mode="json", exclude={"data"}) for task in seen.tasks],
        "libraries": library_versions(),
    }


def _tested(
    tuned: Recipe,
    home: Path,
    editor: SithEditor,
    decomposition: Decomposition,
    validation: set[str],
    processes: Processes,
    progress: bool,
) -> Evaluation | None:
    """Evaluate the chosen edit on the data that the recipe reports: the only look at them.

    Raises:
        InputError: they have validation pictures.
        LargeEdit: the edit exceeds a limit, and the recipe has no ``large_edit: true``.
    """
    chosen = choose(tuned, editor, decomposition, None, home)
    impact = impact_of(editor.tower, decomposition, chosen.gains.gain)
    if not tuned.large_edit:
        impact.check("write large_edit: true in the recipe (--set large_edit=true)")
    if tuned.evaluate is None:
        return None
    run = TowerRun(editor, None, decomposition, None, chosen, impact)
    # Nothing of it is kept: another look would be at another edit.
    found, _ = measure_edit(tuned.evaluate, [run], home, job=ResumableJob(None, processes), progress=progress)
    for task in found.tasks:
        check_pictures(validation, task.digests, task.name)
    return found


def _record(step: TuneStep, seen: Objectives, trials: list[Trial], front: list[Trial], chosen: Trial) -> dict[str, Any]:
    """Return the search as plain data."""
    figures = {
        name: {"title": each.title, "goal": "lowest" if each.lowest else "highest", "base": each.base}
        for name, each in (("target", seen.target), ("collateral", seen.collateral))
    }
    figures["collateral"]["limit"] = step.collateral.limit
    return {
        **figures,
        "validation": seen.data(),
        "trials": len(trials),
        "sampler": step.sampler,
        "seed": step.seed,
        "max_vectors": step.max_vectors,
        "front": [point_of(trial) for trial in front],
        "chosen": point_of(chosen),
    }


def _write(
    target: Path,
    result: TuneResult,
    tuned: Recipe,
    trials: list[Trial],
    job: ResumableJob,
    request: str,
    overwrite: bool,
    say: Callable[[str], object],
) -> None:
    """Write the results; the folder appears when everything in it is complete."""
    with new_folder(target, overwrite=overwrite) as work:
        title = f"{tuned.title}: {len(result.gains)} vectors chosen by sith-hf tune. Write the edit: sith-hf run"
        write_whole(work / RECIPE, write_yaml(tuned.model_dump(mode="json"), title).encode("utf-8"))
        if result.evaluation is not None:
            write_whole(work / TESTED, json_bytes(result.evaluation.to_json()))
        try:
            draw(result.record, trials, work / CHART)
        except MissingExtra as error:
            say(f"the picture of the front was not drawn: {error}")
        files = {path.name: file_sha256(path) for path in sorted(work.iterdir())}
        if job.folder is not None:  # with the times of trials, which differ from run to run
            shutil.copyfile(job.folder / "trials" / TRIALS, work / TRIALS)
        write_whole(work / RESULT, json_bytes({**result.record, "request": request, "files": files}))


def _forget(job: ResumableJob) -> None:
    """Remove the trials from the work folder, where only parts are removed."""
    if job.folder is not None:
        shutil.rmtree(job.folder / "trials", ignore_errors=True)
