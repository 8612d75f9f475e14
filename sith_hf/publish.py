"""Publish edited checkpoints, edit specs, decompositions and dictionaries: choose the files, make the card, upload."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import yaml
from huggingface_hub.repocard import metadata_load

from sith_hf.cards import (
    DATA_FILE,
    MAP_FILE,
    TOKEN,
    decomposition_card,
    dictionary_card,
    hub_base,
    model_card,
    picture,
    spec_card,
)
from sith_hf.checkpoint import BASE_CARD, SITH, other_files
from sith_hf.concepts import DICTIONARY_LAYOUT, ConceptDictionary
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.reading import read_bytes, read_text
from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition
from sith_hf.edits import EDIT_SPEC_LAYOUT, EditSpec
from sith_hf.errors import ArtifactError, InputError, OutputError
from sith_hf.files import Layout, read_artifact, scratch_folder, write_artifact
from sith_hf.hub import (
    CARD,
    PushOptions,
    PushResult,
    UploadPackage,
    check_options,
    full_repo_id,
    is_generated,
    is_repo_id,
    upload_package,
)
from sith_hf.towers import CONFIGS, INDEX, Checkpoint, published

UNNAMED = "a local checkpoint"  # replaces the path of a local base in published files
EDIT = f"{SITH}/{EDIT_SPEC_LAYOUT.filename}"
EVALUATION = f"{SITH}/evaluation.json"
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
TEXT = frozenset({".md", ".txt", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".py", ".sh"})

# The file that identifies the kind of a repository, to the name of that kind.
KINDS: Mapping[str, str] = {
    EDIT: "an edited checkpoint",
    EDIT_SPEC_LAYOUT.filename: "an edit spec",
    DECOMPOSITION_LAYOUT.filename: "a decomposition",
    DICTIONARY_LAYOUT.filename: "a dictionary",
}


def push_edited(
    folder: str | Path,
    repo_id: str,
    *,
    evaluation: Mapping[str, Any] | None = None,
    **options: Unpack[PushOptions],
) -> PushResult:
    """Publish a checkpoint that ``save_edited`` wrote, in one commit, and verify the upload.

    The upload contains its weights, the other files that are not hidden, ``sith/`` with the edit, and a card. Paths of
    local bases are removed. The base's README.md becomes ``sith/base_card.md``.

    Args:
        folder: the edited checkpoint.
        repo_id: ``namespace/name``; a name alone belongs to the user of the token.
        evaluation: measured results for the card (see :class:`sith_hf.cards.facts.Results`), published as
            ``sith/evaluation.json``; read from that file of the folder when None.
        options: see :class:`sith_hf.hub.PushOptions`.

    Raises:
        InputError: not an edited checkpoint, weights that changed after the edit, options that exclude each other, or
            a repository with other content.
        HubError: the Hub refused, failed or could not be reached. The message gives the state of the repository.
    """
    check_options(options)
    folder = Path(folder)
    spec, checkpoint = _read_edited(folder)
    recipe = folder / SITH / "recipe.yaml"
    try:
        files = _edited_files(checkpoint)
        recipe_text = read_text(recipe) if recipe.is_file() else None
        if evaluation is not None:
            files[EVALUATION] = (json.dumps(evaluation, indent=2, sort_keys=True) + "\n").encode("utf-8")
        elif (folder / EVALUATION).is_file():
            evaluation = json.loads(read_text(folder / EVALUATION))
    except (InputError, OutputError):
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{folder} could not be read ({error}); nothing was sent") from None
    base_id, base_card = _base_id(spec.base, folder), _base_metadata(folder)
    files[MAP_FILE] = picture(folder, spec)
    repo_id = full_repo_id(repo_id, options)
    card = model_card(
        folder,
        replace(_public_spec(spec), base=spec.base),  # the card shows the last part of a local path
        repo_id=repo_id,
        base_id=base_id,
        base_card=base_card,
        evaluation=evaluation,
        recipe=recipe_text,
    )
    stale = ("*.safetensors", "*.safetensors.index.json", f"{SITH}/*")
    return upload_package(UploadPackage(files, card, EDIT, KINDS, stale=stale), repo_id, options)


def push_artifact(item: object, repo_id: str, **options: Unpack[PushOptions]) -> PushResult:
    """Publish an edit spec, a decomposition or a dictionary (see :meth:`sith_hf.hub.Pushable.push_to_hub`)."""
    check_options(options)
    repo_id = full_repo_id(repo_id, options)
    with scratch_folder() as work:
        match item:
            case EditSpec():
                spec = _public_spec(item)
                layout, card = EDIT_SPEC_LAYOUT, spec_card(spec, repo_id=repo_id)
                files: dict[str, Path | bytes] = {layout.filename: spec.save_pretrained(work)}
            case Decomposition():
                found = replace(item, base=_public_base(item.base), settings=_public(dict(item.settings)))
                layout, card = DECOMPOSITION_LAYOUT, decomposition_card(found, repo_id=repo_id)
                found.save_pretrained(work)
                files = _with_table(work, layout, found.to_dataset())
            case ConceptDictionary():
                words = replace(item, encoder=_public({"encoder": item.encoder})["encoder"])
                layout, card = DICTIONARY_LAYOUT, dictionary_card(words, repo_id=repo_id)
                words.save_pretrained(work)
                files = _with_table(work, layout, words.to_dataset())
            case _:
                raise InputError(
                    f"cannot publish a {type(item).__name__}: expected a spec, decomposition or dictionary"
                )
        package = UploadPackage(files, card, layout.filename, KINDS, layout.repo_type)
        return upload_package(package, repo_id, options)


def _edited_files(checkpoint: Checkpoint) -> dict[str, Path | bytes]:
    """Return the files to upload by name in the repository, without card and picture. Raises InputError."""
    folder = checkpoint.folder
    files: dict[str, Path | bytes] = {shard.path.name: shard.path for shard in checkpoint.shards}
    if checkpoint.index is not None:
        files[INDEX] = folder / INDEX
    files |= other_files(checkpoint)
    for path in sorted((folder / SITH).rglob("*")):
        # The short cards in sith/ contain paths of local folders.
        if path.is_file() and path.name != CARD:
            name = path.relative_to(folder).as_posix()
            files[name] = _public_file(path) if path.name == EDIT_SPEC_LAYOUT.filename else path
    readme = files.pop(CARD, None)
    if isinstance(readme, Path) and BASE_CARD not in files and not is_generated(_text(readme)):
        files[BASE_CARD] = readme
    # Hidden files are private; .gitattributes belongs to the Hub.
    files = {n: s for n, s in files.items() if not (any(p.startswith(".") for p in n.split("/")) or _stays(folder, s))}
    for name, source in files.items():
        if isinstance(source, Path) and source.suffix in TEXT and TOKEN.search(_text(source)):
            raise InputError(f"{name} seems to contain a token of the Hub: remove it; nothing was sent")
        if name in CONFIGS and isinstance(source, Path):
            files[name] = published(source) or source
    return files


def _stays(folder: Path, source: Path | bytes) -> bool:
    """Return whether a file is left out: a pickle, or a link out of the folder, except into the Hub's cache."""
    if isinstance(source, bytes):
        return False
    real = source.resolve()
    outside = folder.resolve() not in real.parents and real.parent.name != "blobs"
    return source.suffix in PICKLES or (source.is_symlink() and outside)


def _base_id(base: BaseRef, folder: Path) -> str | None:
    """Return the Hub id of a base: the one in its spec, else the one in ``config.json``, else None."""
    if hub_base(base) is not None:
        return base.name
    # The config.json of a base that was itself edited names the base of the base.
    if (folder / SITH / "base" / EDIT_SPEC_LAYOUT.filename).is_file():
        return None
    try:
        name = json.loads(read_text(folder / "config.json")).get("_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    looks_right = isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~" and is_repo_id(name)
    return name if looks_right and not os.path.exists(name) else None


def _base_metadata(folder: Path) -> dict[str, Any] | None:
    """Return the metadata of the base's card in an edited checkpoint; None without a card."""
    for place in (folder / BASE_CARD, folder / CARD):
        if place.is_file():
            with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
                read_bytes(place)  # raises for a file that is too large for a card
                return metadata_load(place)
    return None


def _read_edited(folder: Path) -> tuple[EditSpec, Checkpoint]:
    """Read an edited checkpoint and check its weights. Raises InputError."""
    path = folder / SITH / EDIT_SPEC_LAYOUT.filename
    try:
        if not path.is_file():
            raise InputError(f"{folder} is not an edited checkpoint ({path} is missing): write one with save-edited")
    except OSError as error:
        raise InputError(f"{folder} could not be read ({error.strerror})") from None
    spec, checkpoint = EditSpec.from_pretrained(path), Checkpoint.read(folder)
    if not spec.edited_sha256:
        raise InputError(f"{folder}: its edit spec was not written by save-edited; save the checkpoint again")
    here = {key: tensor_sha256(checkpoint.tensor(key)) for key in spec.edited_sha256}
    BaseRef("the edit recorded in sith/", None, spec.edited_sha256).check(here, str(folder))
    return spec, checkpoint


def _public_file(path: Path) -> bytes:
    """Return a saved edit spec without local paths; the same bytes if it contains none."""
    try:
        tensors, data = read_artifact(path, EDIT_SPEC_LAYOUT)
        base = BaseRef.from_json(data["base"])
    except ArtifactError as error:
        raise InputError(f"{error}; nothing was sent") from None
    named = {**data["base"], "name": _public_base(base).name}
    public = {**data, "base": named, "settings": _public(data["settings"])}
    if isinstance(data.get("origin"), dict):
        public["origin"] = {**data["origin"], "decomposition": _public(data["origin"].get("decomposition", {}))}
    if public == data:
        return path.read_bytes()
    with scratch_folder() as scratch:
        return write_artifact(scratch, EDIT_SPEC_LAYOUT, tensors, public).read_bytes()


def _public_spec(spec: EditSpec) -> EditSpec:
    """Return the edit without local paths."""
    provenance = spec.provenance
    if provenance is not None:
        provenance = replace(provenance, decomposition=_public(provenance.decomposition))
    return replace(spec, base=_public_base(spec.base), provenance=provenance, settings=_public(spec.settings))


def _public_base(base: BaseRef) -> BaseRef:
    return base if hub_base(base) is not None else replace(base, name=UNNAMED)


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without the path of a local text tower."""
    name = settings.get("encoder")
    path = isinstance(name, str) and (not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or os.path.exists(name))
    return {**settings, "encoder": UNNAMED} if path else dict(settings)


def _with_table(folder: Path, layout: Layout, table: Any) -> dict[str, Path | bytes]:
    """Write the rows of an artifact as parquet beside it; return both files."""
    (folder / "data").mkdir()
    table.to_parquet(folder / DATA_FILE)
    return {layout.filename: folder / layout.filename, DATA_FILE: folder / DATA_FILE}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
