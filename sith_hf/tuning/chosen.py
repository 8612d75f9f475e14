"""The recipe with a chosen edit: a plain recipe, whose vectors are given by number."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.gains import VectorKey
from sith_hf.recipe import Recipe, VectorsEdit, base_sha256, dataset_path, full_path, with_full_path


def tuned_recipe(
    recipe: Recipe, editor: SithEditor, decomposition: Decomposition, gains: Mapping[VectorKey, float], home: Path
) -> Recipe:
    """Return the recipe with these gains as its edits, for a file anywhere: its paths are full.

    The fingerprint of the decomposed weights is filled in, since numbers of vectors belong to them. The sweep over
    strengths is left out: it would look at the reported data again.

    Args:
        recipe: the recipe that was tuned.
        editor: an editor of its base.
        decomposition: the explained vectors.
        gains: the chosen vectors.
        home: the folder that relative paths of the recipe start from.
    """
    base: dict[str, Any] = {
        "model": full_path(recipe.base.model, home),
        "revision": editor.loaded.revision,
        "text_model": None if recipe.base.text_model is None else full_path(recipe.base.text_model, home),
        "sha256": base_sha256(decomposition.base.sha256),
        "settings": dict(decomposition.base.settings),
    }
    words = recipe.dictionary
    texts: dict[str, Any] = {
        "file": None if words.file is None else os.path.abspath(home / words.file),
        "dataset": None if words.dataset is None else dataset_path(words.dataset, home),
        "sha256": words.sha256 or decomposition.settings.get("dictionary_sha256"),
    }
    places = {name: _placed(getattr(recipe.decompose, name), home) for name in ("from_", "image_mean")}
    plan = recipe.evaluate
    if plan is not None:
        tasks = tuple(with_full_path(task, home) for task in plan.tasks)
        plan = plan.model_copy(update={"tasks": tasks, "sweep": None})
    changed = {
        "base": recipe.base.model_copy(update=base),
        "dictionary": words.model_copy(update=texts),
        "decompose": recipe.decompose.model_copy(update=places),
        "edits": edits_of(gains),
        "evaluate": plan,
        "tune": None,
    }
    return recipe.model_copy(update=changed)


def edits_of(gains: Mapping[VectorKey, float]) -> tuple[VectorsEdit, ...]:
    """Return edits that give vectors by number; one for all vectors of a head with the same gain."""
    together: dict[tuple[int, int, float], list[int]] = {}
    for (layer, head, vector), gain in sorted(gains.items()):
        together.setdefault((layer, head, gain), []).append(vector)
    return tuple(
        VectorsEdit(rule="vectors", layers=(layer,), heads=(head,), vectors=tuple(vectors), gain=gain)
        for (layer, head, gain), vectors in together.items()
    )


def _placed(name: str | None, home: Path) -> str | None:
    return os.path.abspath(home / name) if name is not None and os.path.lexists(home / name) else name
