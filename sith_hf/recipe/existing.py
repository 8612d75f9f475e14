"""Start a recipe from an existing decomposition: ``decompose: {from: FOLDER}``."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sith_hf.concepts import DICTIONARY_LAYOUT, ConceptDictionary
from sith_hf.core.escaping import sanitize
from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.hub import find_artifact
from sith_hf.images import mean_for
from sith_hf.recipe.inputs import (
    check_base,
    check_base_settings,
    check_sha256,
    decompose_key,
    file_sha256,
    local,
    source_of,
)
from sith_hf.recipe.recipe import DecomposeStep, Dictionary, Recipe


@dataclass(frozen=True, eq=False)
class Existing:
    """An existing decomposition, and the dictionary that it was made with.

    Attributes:
        decomposition: explanations of write directions.
        concepts: the dictionary, encoded; None if it is not at hand.
        files: the two files; the second only if the dictionary lies beside the decomposition.
    """

    decomposition: Decomposition
    concepts: ConceptDictionary | None
    files: tuple[Path, ...]

    def copy_to(self, folder: Path) -> None:
        """Copy the files into a folder of a run, so that the run is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.files:
            layout = DECOMPOSITION_LAYOUT if file == self.files[0] else DICTIONARY_LAYOUT
            shutil.copyfile(file, folder / layout.filename)


def open_existing(recipe: Recipe, editor: SithEditor, folder: Path, *, token: str | None = None) -> Existing:
    """Read the decomposition that ``decompose.from``, or ``decompose_text.from``, names.

    Args:
        recipe: a recipe with this key.
        editor: an editor of the tower of its base.
        folder: the folder that relative paths of the recipe start from.
        token: a token for the Hub.

    Raises:
        ArtifactError: there is no decomposition, or it is damaged.
        BaseMismatch: it was made from other weights than the base's.
        InputError: a decomposition of the other tower, another fingerprint than the recipe's, other settings or
            concepts than the recipe names, or explanations of read directions.
    """
    tower = editor.tower.kind
    step, place = recipe.step_of(tower), decompose_key(tower)
    name = local(str(step.from_), folder)
    file = find_artifact(folder / name if (folder / name).is_file() else name, DECOMPOSITION_LAYOUT, token=token)
    check_sha256(step.sha256, file_sha256(file), place)
    found = Decomposition.from_pretrained(file)
    found.require_side("write")
    if found.tower != tower:
        raise InputError(
            f"{place}.from: {sanitize(str(step.from_))} is of the {found.tower} tower; name one of the {tower} tower"
        )
    editor.with_decomposition(found)  # raises for another base
    check_base_settings(recipe.base, editor)
    check_base(recipe.base, found)
    for key, (wanted, actual) in _expected(step, editor, found, folder).items():
        if wanted != actual:
            raise InputError(
                f"{place}.{key}: the recipe says {sanitize(str(wanted))}, {sanitize(str(step.from_))} was made with "
                f"{sanitize(str(actual))}: use another decomposition, or write {key}: null"
            )
    concepts, beside = _dictionary(recipe.dictionary, editor, found, folder, file.parent / DICTIONARY_LAYOUT.filename)
    return Existing(found, concepts, (file, *beside))


def as_made(found: Decomposition) -> dict[str, Any]:
    """Return the settings of a decomposition by their keys in a recipe, without those that it lacks."""
    known = ("method", "sparsity", "coherence_weight", "fold", "centre")
    return {"poles": "".join(found.poles), **{key: found.settings[key] for key in known if key in found.settings}}


def _expected(
    step: DecomposeStep, editor: SithEditor, found: Decomposition, folder: Path
) -> dict[str, tuple[object, object]]:
    """Return (wanted, actual) of every key that the recipe gives, null and what the decomposition lacks left out."""
    given: dict[str, Any] = {
        key: value for key in step.model_fields_set - {"from_", "sha256"} if (value := getattr(step, key)) is not None
    }
    actual: dict[str, Any] = {**as_made(found), "layers": found.layers, "rank": found.rank, "effect": found.effect}
    if found.settings.get("method") != "comp":
        given.pop("coherence_weight", None)
    if "layers" in given:
        given["layers"] = editor.tower.resolve_layers(given["layers"])
    if "image_mean" in given:
        mean = mean_for(editor, folder / given["image_mean"]).float()
        same = mean.shape == found.image_mean.shape and bool(torch.allclose(mean, found.image_mean, atol=1e-6))
        if same:
            given.pop("image_mean")
        else:
            actual["image_mean"] = "another image mean" if found.settings.get("image_mean") else "no image mean"
    return {key: (value, actual[key]) for key, value in given.items() if actual.get(key) is not None}


def _dictionary(
    dictionary: Dictionary, editor: SithEditor, found: Decomposition, folder: Path, beside: Path
) -> tuple[ConceptDictionary | None, tuple[Path, ...]]:
    """Return the dictionary of a decomposition: the one beside it, else the recipe's if it is the same, else None."""
    wanted = found.settings.get("dictionary_sha256")
    named = any(getattr(dictionary, key) is not None for key in ("texts", "file", "dataset", "template"))
    if beside.is_file():
        concepts = ConceptDictionary.from_pretrained(beside)
        if wanted is not None:
            check_sha256(wanted, concepts.sha256, "dictionary beside the decomposition")
        if named:
            _check_same_concepts(source_of(dictionary, folder), concepts)
        check_sha256(dictionary.sha256, concepts.sha256, "dictionary")
        return editor.encode(concepts), (beside,)
    concepts = source_of(dictionary, folder)
    if wanted is None or concepts.sha256 == wanted:
        check_sha256(dictionary.sha256, concepts.sha256, "dictionary")
        return editor.encode(concepts), ()
    check_sha256(dictionary.sha256, wanted, "dictionary")
    if named:
        raise InputError(
            "dictionary: the recipe names other concepts than those of the decomposition: name these, or none "
            f"(texts: null, file: null), or put {beside.name} beside the decomposition"
        )
    return None, ()


def _check_same_concepts(named: ConceptDictionary, concepts: ConceptDictionary) -> None:
    """Raise InputError unless both have the same concepts, blank and repeated ones aside, and the same template."""
    ours, theirs = ({text.casefold() for text in item.texts if text} for item in (named, concepts))
    if named.template != concepts.template or ours != theirs:
        what = "template" if ours == theirs else f"concepts ({len(ours)} and {len(theirs)})"
        raise InputError(
            f"dictionary: the recipe and the decomposition have different {what}: name the concepts of the "
            "decomposition, or none (texts: null, file: null)"
        )
