"""What a recipe starts from: the opened base, the dictionary, the image mean; each checked by its fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import texts_sha256
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.evaluation import Task
from sith_hf.files import ResumableJob
from sith_hf.images import DatasetSettings
from sith_hf.pursuit import Pursuit
from sith_hf.recipe.model import Base, Dictionary, Recipe
from sith_hf.towers import read_image_mean
from sith_hf.world import embedded_checkpoint

EMBEDDED = "embedded"


def open_base(base: Base, folder: Path, *, token: str | None = None) -> SithEditor:
    """An editor of the base. Raises InputError and UnsupportedModel as ``SithEditor.from_pretrained`` does."""
    if base.model == EMBEDDED and base.revision is not None:
        raise InputError("base.revision: the embedded checkpoint has no revisions")
    name = embedded_checkpoint() if base.model == EMBEDDED else local(base.model, folder)
    text = None if base.text_model is None else local(base.text_model, folder)
    return SithEditor.from_pretrained(name, base.revision, text_model=text, token=token)


def local(name: str, folder: Path) -> str:
    """``name`` below ``folder`` where there is such a folder, else as it stands: a Hub id or a path from here."""
    try:
        below = folder / name
        return str(below) if below.is_dir() else name
    except (OSError, ValueError):
        return name


def placed(name: str, folder: Path) -> str:
    """A local folder by its full path, so that it is found from anywhere; anything else as it stands."""
    found = local(name, folder)
    return os.path.abspath(found) if name != EMBEDDED and os.path.isdir(found) else name


def with_place(task: Task, folder: Path) -> Task:
    """A task whose local dataset, relative to ``folder``, is named by its full path."""
    name = task.data.dataset
    if name is None or not os.path.exists(folder / name):
        return task
    return with_data(task, task.data.model_copy(update={"dataset": os.path.abspath(folder / name)}))


def with_data(task: Task, data: DatasetSettings) -> Task:
    """The same task on other data."""
    changed: Task = task.model_copy(update={"data": data})
    return changed


def dictionary_of(dictionary: Dictionary, folder: Path) -> ConceptDictionary:
    """The concepts, not encoded yet.

    Raises:
        InputError: a source that cannot be read, or other texts than the recipe's fingerprint tells.
    """
    template = dictionary.template
    if dictionary.texts is not None:
        found = ConceptDictionary.from_texts(dictionary.texts, template=template)
    elif dictionary.file is not None:
        found = ConceptDictionary.from_file(folder / dictionary.file, template=template)
    elif dictionary.dataset is not None:
        found = ConceptDictionary.from_dataset(
            local(dictionary.dataset, folder),
            str(dictionary.column),
            split=dictionary.split,
            revision=dictionary.revision,
            template=template,
        )
    else:
        found = ConceptDictionary.builtin(template=template)
    check_sha256(dictionary.sha256, found.sha256, "dictionary")
    return found


def decompose_with(
    recipe: Recipe, editor: SithEditor, folder: Path, *, job: ResumableJob | None = None, progress: bool = False
) -> tuple[ConceptDictionary, Decomposition]:
    """Decompose the editor's model as a recipe says; the encoded dictionary, and the decomposition.

    ``work`` keeps what is finished (see :func:`sith_hf.decomposition.decompose`).

    Raises:
        InputError: settings out of range, or other weights or texts than the recipe's fingerprints tell.
    """
    step = recipe.decompose
    concepts = editor.encode(dictionary_of(recipe.dictionary, folder), job=job, progress=progress)
    decomposition = editor.decompose(
        concepts,
        layers=step.layers,
        rank=step.rank,
        poles=step.poles,
        pursuit=Pursuit(method=step.method, sparsity=step.sparsity, coherence_weight=step.coherence_weight),
        fold=step.fold,
        centre=step.centre,
        image_mean=None if step.image_mean is None else read_image_mean(folder / step.image_mean, editor.tower),
        job=job,
        progress=progress,
    )
    check_sha256(recipe.base.sha256, base_sha256(decomposition.base.sha256), "base")
    return concepts, decomposition


def base_sha256(tensors: Mapping[str, str]) -> str:
    """One fingerprint for the tensors that a decomposition reads."""
    return texts_sha256([f"{name} {tensors[name]}" for name in sorted(tensors)])


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes. Raises InputError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: could not be read ({getattr(error, 'strerror', None) or error})") from None


def check_sha256(expected: str | None, found: str, what: str) -> None:
    """Raises InputError when ``expected`` is another fingerprint than ``found``; None expects nothing."""
    if expected is not None and expected != found:
        raise InputError(
            f"{what}: the recipe was made for sha256 {expected[:12]}..., and this has {found[:12]}...; use the same "
            f"{what}, or take {what}.sha256 out of the recipe"
        )
