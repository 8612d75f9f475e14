"""Publish edited checkpoints, edit specs, decompositions and dictionaries: choose the files, make the card, upload."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from sith_hf.cards import (
    BEFORE_AFTER_FILE,
    DATA_FILE,
    decomposition_card,
    dictionary_card,
    hub_base,
    spec_card,
)
from sith_hf.checkpoint import (
    SITH,
    contents,
    effect_bytes,
    folder_card,
    folder_effect,
    folder_pictures,
    own_card,
    record,
)
from sith_hf.concepts import DICTIONARY_LAYOUT, ConceptDictionary
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.reading import read_text_input
from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition
from sith_hf.edits import EDIT_SPEC_LAYOUT, EFFECT, AnySpec, EditEffect, EditSpec, TowerSpecs, read_spec_file
from sith_hf.errors import ArtifactError, InputError, SithError
from sith_hf.files import Layout, scratch_folder, write_artifact
from sith_hf.hub import (
    MAX_CARD,
    PushOptions,
    PushResult,
    UploadPackage,
    check_options,
    full_repo_id,
    is_generated_file,
    upload_package,
)
from sith_hf.towers import CONFIGS, INDEX, Checkpoint, published

UNNAMED = "a local checkpoint"  # replaces the path of a local base in published files
EDIT = f"{SITH}/{EDIT_SPEC_LAYOUT.filename}"
EVALUATION = f"{SITH}/evaluation.json"

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
    effect: EditEffect | None = None,
    include: Iterable[str] = (),
    **options: Unpack[PushOptions],
) -> PushResult:
    """Publish a checkpoint that ``save_edited`` wrote, in one commit, and verify the upload.

    The upload contains its weights, the other files that belong to the model (see
    :mod:`sith_hf.checkpoint.contents`), ``sith/`` with the edit, and a card; all others are left out and listed. Paths
    of local bases are removed. A ``README.md`` that was changed by hand is the card.

    Args:
        folder: the edited checkpoint.
        repo_id: ``namespace/name``; a name alone belongs to the user of the token.
        evaluation: measured results for the card (see :class:`sith_hf.cards.measured.Results`), published as
            ``sith/evaluation.json``; read from that file of the folder when None.
        effect: what the edit does to the concepts that it names, published as ``sith/effect.json``; read from that file
            of the folder when None.
        include: patterns of more files of the folder to publish, such as ``*.txt``: no links, pickles or other weights.
        options: see :class:`sith_hf.hub.PushOptions`.

    Raises:
        InputError: not an edited checkpoint, an edit without effect on what it names, weights that changed after the
            edit, a token in any file, options that exclude each other, or a repository with other content.
        HubError: the Hub refused, failed or could not be reached. The message gives the state of the repository.
    """
    check_options(options)
    folder = Path(folder)
    spec, checkpoint = _read_edited(folder)
    effect = effect or folder_effect(folder)
    if effect is not None:
        effect.check()
    try:
        found = contents(checkpoint, include)
        files = _edited_files(checkpoint, found.files)
        if evaluation is not None:
            files[EVALUATION] = (json.dumps(evaluation, indent=2, sort_keys=True) + "\n").encode("utf-8")
        if effect is not None:
            files[f"{SITH}/{EFFECT}"] = effect_bytes(effect)
        files.pop(BEFORE_AFTER_FILE, None)
        files |= folder_pictures(folder, evaluation=evaluation, effect=effect)
        repo_id = full_repo_id(repo_id, options)
        written = own_card(folder)
        by_hand = written is not None and not is_generated_file(written)
        if written is not None and by_hand:
            card = read_text_input(written, "the card", "write it again", MAX_CARD)
        else:
            # The card shows the last part of the path of a local base.
            public = _public_spec(spec, keep_base=True)
            card = folder_card(folder, repo_id=repo_id, evaluation=evaluation, effect=effect, public=public)
    except SithError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{folder} could not be read ({error}); nothing was sent") from None
    stale = ("*.safetensors", "*.safetensors.index.json", f"{SITH}/*")
    package = UploadPackage(files, card, EDIT, KINDS, stale=stale, by_hand=by_hand)
    pushed = upload_package(package, repo_id, options)
    return replace(pushed, left_out=tuple(found.left_out), reasons=found.left_out)


def push_artifact(item: object, repo_id: str, **options: Unpack[PushOptions]) -> PushResult:
    """Publish an edit spec, a decomposition or a dictionary (see :meth:`sith_hf.hub.Pushable.push_to_hub`)."""
    check_options(options)
    repo_id = full_repo_id(repo_id, options)
    with scratch_folder() as work:
        match item:
            case EditSpec() | TowerSpecs():
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


def _edited_files(checkpoint: Checkpoint, others: Mapping[str, Path]) -> dict[str, Path | bytes]:
    """Return the files to upload by name in the repository, without card and picture. Raises InputError."""
    folder = checkpoint.folder
    files: dict[str, Path | bytes] = {shard.path.name: shard.path for shard in checkpoint.shards}
    if checkpoint.index is not None:
        files[INDEX] = folder / INDEX
    files |= others
    files |= {f"{SITH}/{name}": path for name, path in record(folder).items()}
    for name, source in files.items():
        if name in CONFIGS and isinstance(source, Path):
            files[name] = published(source) or source
        if name.startswith(f"{SITH}/") and name.endswith(EDIT_SPEC_LAYOUT.filename) and isinstance(source, Path):
            files[name] = _public_file(source)
    return files


def _read_edited(folder: Path) -> tuple[AnySpec, Checkpoint]:
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
        EditSpec.from_pretrained(path)  # checks the record
        tensors, data, layout = read_spec_file(path)
    except ArtifactError as error:
        raise InputError(f"{error}; nothing was sent") from None
    if layout is EDIT_SPEC_LAYOUT:
        public = _public_record(data)
    else:
        public = {**data, "towers": {tower: _public_record(part) for tower, part in data["towers"].items()}}
    if public == data:
        return path.read_bytes()
    with scratch_folder() as scratch:
        return write_artifact(scratch, layout, tensors, public).read_bytes()


def _public_record(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object of an edit of one tower without local paths."""
    named = {**data["base"], "name": _public_base(BaseRef.from_json(data["base"])).name}
    public = {**data, "base": named, "settings": _public(data["settings"])}
    if isinstance(data.get("origin"), dict):
        public["origin"] = {**data["origin"], "decomposition": _public(data["origin"].get("decomposition", {}))}
    return public


def _public_spec(spec: AnySpec, *, keep_base: bool = False) -> AnySpec:
    """Return the edit without local paths; with ``keep_base``, those of the base stay."""
    parts = [_public_part(part, keep_base) for part in spec.parts]
    return TowerSpecs(tuple(parts)) if len(parts) > 1 else parts[0]


def _public_part(spec: EditSpec, keep_base: bool) -> EditSpec:
    base, provenance = spec.base if keep_base else _public_base(spec.base), spec.provenance
    if provenance is not None:
        provenance = replace(provenance, decomposition=_public(provenance.decomposition))
    return replace(spec, base=base, provenance=provenance, settings=_public(spec.settings))


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


def card_of(folder: str | Path) -> str:
    """Return the card of a local folder, without a checksum. The Hub is not asked.

    Args:
        folder: an edited checkpoint, an edit spec, a decomposition or a dictionary.

    Raises:
        InputError, ArtifactError: a folder of another kind, or a damaged one.
    """
    folder = Path(folder)
    found = next((name for name in KINDS if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder} holds none of {', '.join(KINDS)}: name a folder that sith-hf wrote")
    if found == EDIT:
        return folder_card(folder)
    if found == EDIT_SPEC_LAYOUT.filename:
        return spec_card(EditSpec.from_pretrained(folder), repo_id=None)
    if found == DECOMPOSITION_LAYOUT.filename:
        return decomposition_card(Decomposition.from_pretrained(folder), repo_id=None)
    return dictionary_card(ConceptDictionary.from_pretrained(folder), repo_id=None)
