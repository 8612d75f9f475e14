"""The inputs of a recipe: base, dictionary, decomposition, paths; and checks of their fingerprints."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import changed_setting, texts_sha256
from sith_hf.core.reading import open_regular, reason
from sith_hf.decomposition import DecomposeSettings, Decomposition
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.evaluation import Task
from sith_hf.files import ResumableJob
from sith_hf.images import mean_for
from sith_hf.pursuit import Pursuit
from sith_hf.recipe.recipe import Base, Dictionary, Recipe
from sith_hf.world import EMBEDDED, embedded_checkpoint


def open_base(
    base: Base, folder: Path, *, token: str | None = None, device: str | None = None, dtype: str | None = None
) -> SithEditor:
    """Open the base. Raises as ``SithEditor.from_pretrained``, and InputError for a dtype that rounds its weights."""
    if base.model == EMBEDDED and base.revision is not None:
        raise InputError("base.revision: the embedded checkpoint has no revisions; remove this key")
    name = embedded_checkpoint() if base.model == EMBEDDED else local(base.model, folder)
    text = None if base.text_model is None else local(base.text_model, folder)
    editor = SithEditor.from_pretrained(name, base.revision, text_model=text, token=token, device=device, dtype=dtype)
    editor.loaded.require_exact()
    return editor


def of_tower(editor: SithEditor, tower: str) -> SithEditor:
    """Return an editor of a tower of the same model. Without such a tower, its first use raises InputError."""
    return SithEditor(editor.loaded, editor.companion, editor.history, tower)


def local(name: str, folder: Path) -> str:
    """Return the path of ``name`` below ``folder`` if that is a folder, else ``name`` (such as a Hub id)."""
    return str(folder / name) if os.path.isdir(folder / name) else name


def full_path(name: str, folder: Path) -> str:
    """Return the full path of a local folder; other names unchanged."""
    found = local(name, folder)
    return os.path.abspath(found) if name != EMBEDDED and os.path.isdir(found) else name


def dataset_path(name: str, folder: Path) -> str:
    """Return the full path of a dataset below ``folder``, a folder or file; other names unchanged."""
    return os.path.abspath(folder / name) if name and os.path.lexists(folder / name) else name


def with_full_path(task: Task, folder: Path) -> Task:
    """Return the task with the full path of a local dataset below ``folder``."""
    name = task.data.dataset
    return task if name is None else with_data(task, dataset=dataset_path(name, folder))


def with_data(task: Task, **changes: str | None) -> Task:
    """Return the task with other values for keys of its data."""
    changed: Task = task.model_copy(update={"data": task.data.model_copy(update=changes)})
    return changed


def dictionary_of(dictionary: Dictionary, folder: Path) -> ConceptDictionary:
    """Read the concepts, without encoding them.

    Raises:
        InputError: a source that cannot be read, or texts with another fingerprint than the recipe's.
    """
    found = source_of(dictionary, folder)
    check_sha256(dictionary.sha256, found.sha256, "dictionary")
    return found


def source_of(dictionary: Dictionary, folder: Path) -> ConceptDictionary:
    """Read the concepts, whatever their fingerprint."""
    template = dictionary.template
    if dictionary.texts is not None:
        return ConceptDictionary.from_texts(dictionary.texts, template=template)
    if dictionary.file is not None:
        return ConceptDictionary.from_file(folder / dictionary.file, template=template)
    if dictionary.dataset is not None:
        return ConceptDictionary.from_dataset(
            dataset_path(dictionary.dataset, folder),
            str(dictionary.column),
            config=dictionary.config,
            split=dictionary.split,
            revision=dictionary.revision,
            template=template,
        )
    return ConceptDictionary.builtin(template=template)


def decompose_with(
    recipe: Recipe,
    editor: SithEditor,
    folder: Path,
    concepts: ConceptDictionary | None = None,
    *,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> tuple[ConceptDictionary, Decomposition]:
    """Decompose the editor's tower by a recipe; return the encoded dictionary and the decomposition.

    ``concepts`` is the recipe's dictionary, encoded, if it is at hand. ``job`` stores finished parts (see
    :func:`sith_hf.decomposition.decompose`).

    Raises:
        InputError: settings out of range, or weights, texts or settings of the model other than the recipe's.
    """
    tower = editor.tower.kind
    step = recipe.step_of(tower).model_dump(exclude={"from_", "sha256"})
    path, coder = step.pop("image_mean"), {key: step.pop(key) for key in ("method", "sparsity", "coherence_weight")}
    mean = None if path is None else mean_for(editor, folder / path)
    check_base_settings(recipe.base, editor)
    if concepts is None:
        concepts = editor.encode(dictionary_of(recipe.dictionary, folder), job=job, progress=progress)
    check_settings(recipe.dictionary.encoder, encoder_of(concepts), "dictionary", "encoder")
    settings = DecomposeSettings(**step, pursuit=Pursuit(**coder), image_mean=mean)
    decomposition = editor.decompose(concepts, settings, job=job, progress=progress)
    check_base(recipe.base, decomposition)
    return concepts, decomposition


def check_base_settings(base: Base, editor: SithEditor) -> None:
    """Raise InputError if a setting of the editor's tower differs from that in the recipe."""
    key = own_key("settings", editor.tower.kind)
    check_settings(getattr(base, key), editor.tower.settings, "base", key)


def check_base(base: Base, decomposition: Decomposition) -> None:
    """Raise InputError if the recipe has the fingerprint of other decomposed tensors."""
    key = own_key("sha256", decomposition.tower)
    check_sha256(getattr(base, key), base_sha256(decomposition.base.sha256), "base", key)


def decompose_key(tower: str) -> str:
    """Return the key of a recipe with the settings of a tower's decomposition."""
    return "decompose" if tower == "vision" else f"decompose_{tower}"


def own_key(key: str, tower: str) -> str:
    """Return the key of a recipe's base that is about a tower."""
    return key if tower == "vision" else f"{tower}_{key}"


def base_sha256(tensors: Mapping[str, str]) -> str:
    """Return one fingerprint of the tensors that a decomposition reads."""
    return texts_sha256([f"{name} {tensors[name]}" for name in sorted(tensors)])


def encoder_of(concepts: ConceptDictionary) -> dict[str, Any]:
    """Return what identifies the text tower that encoded the concepts: its settings, and the sha256 of its weights."""
    return {**(concepts.encoder_settings or {}), "sha256": concepts.encoder_sha256}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file. Raises InputError if it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: could not be read ({reason(error)})") from None


def copied_input(source: Path, work: Path, name: str) -> str:
    """Copy a file of a recipe into ``inputs/`` under a name, its suffix included; return its path below ``work``.

    Raises:
        InputError: it cannot be read.
        OSError: it could not be copied.
    """
    file_sha256(source)  # raises for a file that cannot be read
    target = work / "inputs" / name
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
    return target.relative_to(work).as_posix()


def check_settings(
    expected: Mapping[str, Any] | None, found: Mapping[str, Any], what: str, key: str = "settings"
) -> None:
    """Raise InputError if a setting differs from that in the recipe."""
    changed = changed_setting(expected or {}, found)
    if changed is not None:
        raise InputError(
            f"{what}: the recipe was run with {changed[0]}, and this {what} has {changed[1]}; restore the old setting, "
            f"or remove {what}.{key} from the recipe"
        )


def check_sha256(expected: str | None, found: str, what: str, key: str = "sha256") -> None:
    """Raise InputError if ``expected`` is neither None nor ``found``."""
    if expected is not None and expected != found:
        raise InputError(
            f"{what}: the sha256 is {found[:12]}..., the recipe expects {expected[:12]}...; use the same {what}, or "
            f"remove {what}.{key} from the recipe"
        )
