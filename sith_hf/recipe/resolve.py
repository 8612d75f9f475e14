"""The recipe that repeats a run: all defaults, fingerprints filled in, scores of judges read from files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import shown_name
from sith_hf.decomposition import DECOMPOSITION_LAYOUT
from sith_hf.gains import SCORES_LAYOUT, Scores
from sith_hf.judges import EmbeddingJudgeSettings, JudgeSettings, SheetJudgeSettings
from sith_hf.recipe.existing import as_made
from sith_hf.recipe.inputs import (
    base_sha256,
    copied_input,
    dataset_path,
    decompose_key,
    encoder_of,
    file_sha256,
    full_path,
    own_key,
    with_data,
    with_full_path,
)
from sith_hf.recipe.recipe import Base, DecomposeStep, Recipe
from sith_hf.recipe.tower_run import DECOMPOSITION, TowerRun, suffix_of
from sith_hf.towers import image_mean_file


def resolve(
    recipe: Recipe, towers: Sequence[TowerRun], folder: Path, work: Path, data: Mapping[str, str | None]
) -> Recipe:
    """Return the recipe that repeats a run, for a file in ``work``.

    Files of the recipe are copied to ``inputs/``, and scores of judges that may answer differently are read from
    ``scores/``. So ``work`` is complete, except for a local base and local datasets, whose full paths the recipe has.

    Args:
        recipe: the recipe that was run.
        towers: its results, which are saved in ``work``.
        folder: the folder that relative paths of ``recipe`` start from.
        work: the folder of the resolved recipe.
        data: the name of each evaluated task to the fingerprint of its data.

    Raises:
        InputError: a file of the recipe no longer exists.
        OSError: a file could not be copied.
    """
    dictionary, plan = recipe.dictionary, recipe.evaluate
    concepts, decomposition = towers[0].concepts, towers[0].decomposition
    known = decomposition.settings.get("dictionary_sha256")
    texts: dict[str, Any] = {"sha256": known if concepts is None else concepts.sha256}
    texts["encoder"] = dictionary.encoder if concepts is None else encoder_of(concepts)
    if dictionary.file is not None:
        texts["file"] = copied_input(folder / dictionary.file, work, "concepts.txt")
    if dictionary.dataset is not None:
        texts["dataset"] = dataset_path(dictionary.dataset, folder)
    edits = []
    scores = {name: found for run in towers for name, found in run.chosen.scores.items()}
    for number, step in enumerate(recipe.edits):
        judges = {
            name: _pinned(judge, f"{number}-{name}", scores, work)
            for name in ("judge", "keep")
            if (judge := getattr(step, name, None)) is not None
        }
        edits.append(step.model_copy(update=judges))
    if plan is not None:
        tasks = [with_full_path(task, folder) for task in plan.tasks]
        tasks = [with_data(task, sha256=data.get(task.name) or task.data.sha256) for task in tasks]
        plan = plan.model_copy(update={"tasks": tuple(tasks)})
    changed = {
        "base": _opened(recipe.base, towers, folder),
        "dictionary": dictionary.model_copy(update=texts),
        "edits": tuple(edits),
        "evaluate": plan,
        "tune": None,
    }
    for run in towers:
        changed[decompose_key(run.decomposition.tower)] = _decomposed(recipe, run, folder, work)
    return recipe.model_copy(update=changed)


def _opened(base: Base, towers: Sequence[TowerRun], folder: Path) -> Base:
    """Return the base with its full path, its revision and the fingerprints of its towers."""
    opened: dict[str, Any] = {
        "model": full_path(base.model, folder),
        "revision": towers[0].editor.loaded.revision,
        "text_model": None if base.text_model is None else full_path(base.text_model, folder),
    }
    for run in towers:
        kind, made = run.decomposition.tower, run.decomposition.base
        opened[own_key("sha256", kind)] = base_sha256(made.sha256)
        opened[own_key("settings", kind)] = dict(made.settings)
    return base.model_copy(update=opened)


def _decomposed(recipe: Recipe, run: TowerRun, folder: Path, work: Path) -> DecomposeStep:
    """Return the settings of a decomposition, with its files in ``work``."""
    step, found = recipe.step_of(run.decomposition.tower), run.decomposition
    mean = step.image_mean
    if mean is not None:
        file = image_mean_file(folder / mean)
        mean = copied_input(file, work, f"image_mean{file.suffix}")
    centre = found.settings["centre"]
    settings = {"layers": found.layers, "rank": found.rank, "centre": centre, "image_mean": mean}
    if step.from_ is not None:
        place = f"{DECOMPOSITION}{suffix_of(recipe, found.tower)}"
        settings |= as_made(found)
        settings |= {"from_": place, "sha256": file_sha256(work / place / DECOMPOSITION_LAYOUT.filename)}
    return step.model_copy(update=settings)


def shareable(recipe: Recipe) -> Recipe:
    """Return the recipe without the folders of this machine, to publish with the edited checkpoint."""
    base = {name: _shown(getattr(recipe.base, name)) for name in ("model", "text_model")}
    plan = recipe.evaluate
    if plan is not None:
        tasks = [with_data(task, dataset=_shown(task.data.dataset)) for task in plan.tasks]
        plan = plan.model_copy(update={"tasks": tuple(tasks)})
    dictionary = recipe.dictionary.model_copy(update={"dataset": _shown(recipe.dictionary.dataset)})
    changed = {"base": recipe.base.model_copy(update=base), "dictionary": dictionary, "evaluate": plan}
    return recipe.model_copy(update=changed)


def _shown(name: str | None) -> str | None:
    return shown_name(name) if name is not None and os.path.isabs(name) else name


def _pinned(judge: JudgeSettings, name: str, scores: Mapping[str, Scores], work: Path) -> JudgeSettings:
    if isinstance(judge, EmbeddingJudgeSettings):
        return judge
    path = f"scores/{name}/{SCORES_LAYOUT.filename}"
    return SheetJudgeSettings(by="file", path=path, topic=scores[name].topic, sha256=file_sha256(work / path))
