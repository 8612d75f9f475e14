"""The request of a run: one fingerprint of everything that its results come from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sith_hf.checkpoint import contents, own_card, record
from sith_hf.core.reading import reason
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.files import library_versions
from sith_hf.recipe.inputs import file_sha256
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.source import PLACES
from sith_hf.towers import INDEX, Checkpoint, LoadedModel


def request_sha256(recipe: Recipe, include: tuple[str, ...], editor: SithEditor, folder: Path) -> str:
    """Return the fingerprint of a recipe, its files and folders, its models, and the versions of libraries.

    Files count by their content. Folders of images, which may be large, count by the names, sizes and times of their
    files, as for ``datasets``. A dataset on the Hub counts by its name and revision.

    Args:
        recipe: the recipe.
        include: patterns of more files of the base to copy.
        editor: an editor of the base.
        folder: the folder that relative paths of the recipe start from.

    Raises:
        InputError: a file that cannot be read, or a pattern that does not fit.
    """
    opened = [
        [loaded.title, loaded.revision, _checkpoint(loaded, patterns)]
        for loaded, patterns in ((editor.loaded, include), (editor.companion, ()))
        if loaded is not None
    ]
    request = [_named(recipe.model_dump(mode="json"), "", folder), include, opened, library_versions()]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _named(value: Any, key: str, folder: Path) -> Any:
    """Return plain data with the state of each file and folder beside its name."""
    if isinstance(value, dict):
        return {name: _named(item, name.rstrip("_"), folder) for name, item in value.items()}
    if isinstance(value, list):
        return [_named(item, key, folder) for item in value]
    if key not in PLACES or not isinstance(value, str) or not value or not os.path.exists(folder / value):
        return value
    path = folder / value
    if not path.is_dir():
        return file_sha256(path)
    if key == "dataset":
        return [os.path.abspath(path), _listing(path)]
    if key in ("model", "text_model"):  # opened already
        return os.path.abspath(path)
    return {item.name: file_sha256(item) for item in path.iterdir() if item.suffix in (".safetensors", ".pt")}


def _listing(folder: Path) -> list[list[str | int]]:
    found: list[list[str | int]] = []
    try:
        for place, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(place, name) for name in names if not name.startswith(".")):
                state = path.lstat()
                found.append([str(path.relative_to(folder)), state.st_size, state.st_mtime_ns])
    except OSError as error:
        raise InputError(f"{folder}: could not be read ({reason(error)})") from None
    return sorted(found)


def _checkpoint(loaded: LoadedModel, include: tuple[str, ...]) -> dict[str, str]:
    """Return the fingerprints of the files that decide what a model computes and what its edited copy holds."""
    if loaded.folder is None:
        return {}
    folder, checkpoint = loaded.folder, Checkpoint.read(loaded.folder)
    found = dict(contents(checkpoint, include).files) | {f"sith/{name}": path for name, path in record(folder).items()}
    card = own_card(folder)
    others = [shard.path for shard in checkpoint.shards] + ([] if card is None else [card])
    others += [*folder.glob("adapter_*"), *([] if checkpoint.index is None else [folder / INDEX])]
    return {name: file_sha256(path) for name, path in (found | {path.name: path for path in others}).items()}
