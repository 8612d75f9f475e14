"""Publish edited checkpoints, edit specs, decompositions and dictionaries: which files, which card, and where."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
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
from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition
from sith_hf.edits import EDIT_SPEC_LAYOUT, EditSpec
from sith_hf.errors import ArtifactError, InputError, OutputError
from sith_hf.files import Layout, read_artifact, scratch_folder, write_artifact
from sith_hf.hub import CARD, PushOptions, PushResult, UploadPackage, check_options, is_generated, is_repo_id, push
from sith_hf.towers import CONFIGS, INDEX, Checkpoint, published

# What stands in a published file instead of the path of a local base.
UNNAMED = "a local checkpoint"

EVALUATION = f"{SITH}/evaluation.json"
PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
TEXT = frozenset({".md", ".txt", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".py", ".sh"})

# A file by which a repository is known, and what it then holds.
KINDS: Mapping[str, str] = {
    f"{SITH}/{EDIT_SPEC_LAYOUT.filename}": "an edited checkpoint",
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
    """Publish a checkpoint that ``save_edited`` wrote, in one commit, and check what arrived.

    Sent are its weights, every file beside them that is not hidden, ``sith/`` with the edit, and a card. The paths
    of local bases are left out of what is sent. The base's own README.md travels as ``sith/base_card.md``.

    Args:
        folder: the edited checkpoint.
        repo_id: ``namespace/name``; a name alone goes into the namespace of the token's user.
        evaluation: measured results for the card, which travel as ``sith/evaluation.json``; what that file of the
            folder holds when None (:func:`sith_hf.cards.facts.results` describes it).
        options: ``private``, ``revision``, ``create_pr``, ``commit_message``, ``token``, ``overwrite_card``,
            ``dry_run`` (see :class:`sith_hf.hub.PushOptions`).

    Raises:
        InputError: no edited checkpoint, one whose weights are not what its edit left, options that exclude each
            other, or a repository that holds something else.
        HubError: the Hub refused, failed or could not be reached; the message says what stands there.
    """
    check_options(options)
    folder = Path(folder)
    spec = _edit_of(folder)
    known = base_id(spec.base, folder)
    try:
        files = edited_files(folder)
        recipe = folder / SITH / "recipe.yaml"
        told = recipe.read_text(encoding="utf-8") if recipe.is_file() else None
        if evaluation is not None:
            files[EVALUATION] = (json.dumps(evaluation, indent=2, sort_keys=True) + "\n").encode("utf-8")
        elif (folder / EVALUATION).is_file():
            evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    except (InputError, OutputError):
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{folder} could not be read ({error}); nothing was sent") from None
    files[MAP_FILE] = picture(folder, spec)

    def card(full_id: str) -> str:
        # With the place of a local base, which the card needs to run its code and does not show.
        return model_card(
            folder,
            _public_spec(spec, spec.base.name),
            repo_id=full_id,
            base_id=known,
            base_card=base_metadata(folder),
            evaluation=evaluation,
            recipe=told,
        )

    stale = ("*.safetensors", "*.safetensors.index.json", f"{SITH}/*")
    marks = tuple((spec.edited_sha256 or {}).values())
    parcel = UploadPackage(files, card, stale, _clash(f"{SITH}/{EDIT_SPEC_LAYOUT.filename}"), marks)
    return push(parcel, repo_id, default_message="Upload an edited checkpoint with sith-hf", options=options)


def push_artifact(item: object, repo_id: str, **options: Unpack[PushOptions]) -> PushResult:
    """Publish an edit spec, a decomposition or a dictionary; arguments and errors as for ``push_to_hub`` of each."""
    check_options(options)
    with scratch_folder() as work:
        card: Callable[[str], str]
        files: dict[str, Path | bytes]
        match item:
            case EditSpec():
                spec = _public_spec(item, _public_base(item.base).name)
                layout, card = EDIT_SPEC_LAYOUT, lambda name: spec_card(spec, repo_id=name)
                files = {EDIT_SPEC_LAYOUT.filename: spec.save_pretrained(work)}
            case Decomposition():
                found = replace(item, base=_public_base(item.base), settings=_public(dict(item.settings)))
                layout, card = DECOMPOSITION_LAYOUT, lambda name: decomposition_card(found, repo_id=name)
                found.save_pretrained(work)
                files = _with_table(work, layout, found.to_dataset())
            case ConceptDictionary():
                words = replace(item, encoder=_public({"encoder": item.encoder})["encoder"])
                layout, card = DICTIONARY_LAYOUT, lambda name: dictionary_card(words, repo_id=name)
                words.save_pretrained(work)
                files = _with_table(work, layout, words.to_dataset())
            case _:
                raise InputError(f"{type(item).__name__} is nothing that sith-hf publishes")
        parcel = UploadPackage(files, card, clash=_clash(layout.filename))
        message = f"Upload {KINDS[layout.filename]} with sith-hf"
        return push(parcel, repo_id, repo_type=layout.repo_type, default_message=message, options=options)


def edited_files(folder: Path) -> dict[str, Path | bytes]:
    """What of an edited checkpoint is sent, by name in the repository; all but the card and the picture in it.

    Raises:
        InputError: a file holds what looks like a token of the Hub.
    """
    checkpoint = Checkpoint.read(folder)
    files: dict[str, Path | bytes] = {shard.path.name: shard.path for shard in checkpoint.shards}
    if checkpoint.index is not None:
        files[INDEX] = folder / INDEX
    files |= other_files(checkpoint)
    for path in sorted((folder / SITH).rglob("*")):
        # The short cards in sith/ say less than the card that is sent, and name local folders.
        if path.is_file() and path.name != CARD:
            name = path.relative_to(folder).as_posix()
            files[name] = _public_file(path) if path.name == EDIT_SPEC_LAYOUT.filename else path
    readme = files.pop(CARD, None)
    if isinstance(readme, Path) and BASE_CARD not in files and not is_generated(_text(readme)):
        files[BASE_CARD] = readme
    # Hidden files are the concern of whoever made them; .gitattributes is the Hub's.
    files = {n: s for n, s in files.items() if not (any(p.startswith(".") for p in n.split("/")) or _stays(folder, s))}
    for name, source in files.items():
        if isinstance(source, Path) and source.suffix in TEXT and TOKEN.search(_text(source)):
            raise InputError(f"{name} holds what looks like a token of the Hub; take it out, nothing was sent")
        if name in CONFIGS and isinstance(source, Path):
            files[name] = published(source) or source
    return files


def _stays(folder: Path, source: Path | bytes) -> bool:
    """Whether a file is not for others: a pickle, or a link out of the folder that is not one of the Hub's cache."""
    if isinstance(source, bytes):
        return False
    real = source.resolve()
    outside = folder.resolve() not in real.parents and real.parent.name != "blobs"
    return source.suffix in PICKLES or (source.is_symlink() and outside)


def base_id(base: BaseRef, folder: Path) -> str | None:
    """The Hub id of a base: the spec's own, else the one that the checkpoint records, else None.

    A spec's name is a Hub id where a commit stands beside it. The name in ``config.json`` is taken where the base
    was no edited checkpoint itself: that file came to it unchanged from *its* base.
    """
    if hub_base(base) is not None:
        return base.name
    if (folder / SITH / "base" / EDIT_SPEC_LAYOUT.filename).is_file():
        return None
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    looks_right = isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~" and is_repo_id(name)
    return name if looks_right and not os.path.exists(name) else None


def base_metadata(folder: Path) -> dict[str, Any] | None:
    """The metadata of the base's card, which a copy of a checkpoint carries along; None where there is none."""
    for place in (folder / BASE_CARD, folder / CARD):
        if place.is_file():
            with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
                return metadata_load(place)
    return None


def _edit_of(folder: Path) -> EditSpec:
    """The edit in a folder, after a look at the weights. Raises InputError."""
    path = folder / SITH / EDIT_SPEC_LAYOUT.filename
    try:
        found = path.is_file()
    except OSError as error:
        raise InputError(f"{folder} could not be looked up ({error.strerror})") from None
    if not found:
        raise InputError(f"{folder} holds no edited checkpoint ({path} is missing): write one with save-edited")
    spec, checkpoint = EditSpec.from_pretrained(path), Checkpoint.read(folder)
    if not spec.edited_sha256:
        raise InputError(f"{folder}: its edit spec was not written by save-edited; write the checkpoint again")
    here = {key: tensor_sha256(checkpoint.tensor(key)) for key in spec.edited_sha256}
    BaseRef("the edit recorded in sith/", None, spec.edited_sha256).check(here, str(folder))
    return spec


def _public_file(path: Path) -> bytes:
    """A saved edit spec as it may be published, with its own provenance; the same bytes where it names no path."""
    try:
        tensors, data = read_artifact(path, EDIT_SPEC_LAYOUT)
        base = BaseRef.from_json(data["base"])
    except ArtifactError as error:
        raise InputError(f"{error}; nothing was sent") from None
    name = base.name if hub_base(base) is not None else UNNAMED
    public = {**data, "base": {**data["base"], "name": name}, "settings": _public(data["settings"])}
    if isinstance(data.get("origin"), dict):
        public["origin"] = {**data["origin"], "decomposition": _public(data["origin"].get("decomposition", {}))}
    if public == data:
        return path.read_bytes()
    with scratch_folder() as scratch:
        return write_artifact(scratch, EDIT_SPEC_LAYOUT, tensors, public).read_bytes()


def _public_spec(spec: EditSpec, base_name: str) -> EditSpec:
    """The edit as it may be published."""
    origin = spec.origin
    if origin is not None:
        origin = replace(origin, decomposition=_public(origin.decomposition))
    return replace(spec, base=replace(spec.base, name=base_name), origin=origin, settings=_public(spec.settings))


def _public_base(base: BaseRef) -> BaseRef:
    return base if hub_base(base) is not None else replace(base, name=UNNAMED)


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the path of a local text tower."""
    name = settings.get("encoder")
    path = isinstance(name, str) and (not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or os.path.exists(name))
    return {**settings, "encoder": UNNAMED} if path else dict(settings)


def _with_table(folder: Path, layout: Layout, table: Any) -> dict[str, Path | bytes]:
    """An artifact in ``folder`` and its rows as parquet."""
    (folder / "data").mkdir()
    table.to_parquet(folder / DATA_FILE)
    return {layout.filename: folder / layout.filename, DATA_FILE: folder / DATA_FILE}


def _clash(own: str) -> Callable[[Collection[str]], str | None]:
    """A check that a repository holds nothing that would be lost or be mistaken for this."""

    def check(names: Collection[str]) -> str | None:
        weights = [name for name in names if re.fullmatch(r"[^/]+\.(bin|h5|msgpack|safetensors)", name)]
        if own in names:
            return None
        for name, what in KINDS.items():
            if name in names:
                return f"holds {what} already: choose another repository"
        if weights:
            return (
                f"holds weights that sith-hf did not write ({weights[0]}): choose another repository, or propose the "
                "change with --create-pr"
            )
        return None

    return check


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
