"""The card of an edited folder, from what lies in it: it is the same for a folder and for its repository on the Hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sith_hf.cards import BEFORE_AFTER_FILE, hub_base, is_repo_name, model_card, pictures
from sith_hf.checkpoint.contents import SITH, is_of_an_earlier_release, record
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.reading import json_fields, read_start, read_text_input
from sith_hf.edits import EDIT_SPEC_LAYOUT, EFFECT, AnySpec, EditEffect, EditSpec
from sith_hf.errors import InputError
from sith_hf.files import write_whole
from sith_hf.hub import CARD, is_generated_file, with_checksum

# Characters of a card in which its metadata must end, and of a record.
_LONGEST_METADATA, _LONGEST_RECORD = 2**16, 64 * 2**20
# A merge of more models has no place in the metadata.
_MOST_BASES = 10


def folder_card(
    folder: str | Path,
    *,
    repo_id: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    effect: EditEffect | None = None,
    public: AnySpec | None = None,
) -> str:
    """Return the card of an edited checkpoint, without a checksum. The Hub is not asked.

    Args:
        folder: a folder that :func:`sith_hf.checkpoint.save_edited` wrote.
        repo_id: the repository that will hold the card; None for the folder itself.
        evaluation: measured results; those in the folder's ``sith/evaluation.json`` when None.
        effect: what the edit does to the concepts that it names; read from ``sith/effect.json`` when None.
        public: its edit as the card shall show it; the one in the folder when None.

    Raises:
        InputError, ArtifactError: not an edited checkpoint, or a damaged record in ``sith/``.
    """
    folder = Path(folder)
    if not (folder / SITH / EDIT_SPEC_LAYOUT.filename).is_file():
        missing = folder / SITH / EDIT_SPEC_LAYOUT.filename
        raise InputError(f"{folder} is not an edited checkpoint ({missing} is missing): write one with save-edited")
    spec, found = public or EditSpec.from_pretrained(folder / SITH / EDIT_SPEC_LAYOUT.filename), record(folder)
    return model_card(
        folder,
        spec,
        repo_id=repo_id,
        effect=effect or folder_effect(folder),
        base_ids=recorded_bases(spec.base, folder),
        base_card=card_metadata(found.get(f"base/{CARD}")),
        evaluation=evaluation or _evaluation(folder),
        recipe=_read(found["recipe.yaml"], "the recipe") if "recipe.yaml" in found else None,
    )


def folder_pictures(
    folder: Path, *, evaluation: Mapping[str, Any] | None = None, effect: EditEffect | None = None
) -> dict[str, bytes]:
    """Return the pictures of :func:`folder_card` by name; arguments and exceptions as there."""
    spec = EditSpec.from_pretrained(folder / SITH / EDIT_SPEC_LAYOUT.filename)
    return pictures(folder, spec, evaluation or _evaluation(folder), effect or folder_effect(folder))


def _evaluation(folder: Path) -> dict[str, Any] | None:
    """Return the measured results that an edited checkpoint records. Raises InputError for a damaged record."""
    path = record(folder).get("evaluation.json")
    if path is None:
        return None
    try:
        found: dict[str, Any] = json.loads(_read(path, "the evaluation"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): evaluate again, or remove it") from None
    if isinstance(found, dict) and "format" in found:
        raise InputError(
            f"{path} is a whole evaluation, and a card takes its summary: write the JSON of "
            "sith_hf.evaluation.Evaluation.from_file(...).card() into this file, or remove it"
        )
    return found


def folder_effect(folder: Path) -> EditEffect | None:
    """Return the effect of its edit that an edited checkpoint records; None if it has none.

    Raises:
        InputError: a damaged record, or that of another edit.
    """
    path = record(folder).get(EFFECT)
    if path is None:
        return None
    effect = EditEffect.from_file(path)
    if not effect.is_of(EditSpec.from_pretrained(folder / SITH / EDIT_SPEC_LAYOUT.filename)):
        raise InputError(f"{path} is of another edit: save the checkpoint again, or remove this file")
    return effect


def effect_bytes(effect: EditEffect) -> bytes:
    """Return the content of ``sith/effect.json``."""
    text = json.dumps(effect.to_json(), indent=2, ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode("ascii")


def write_card(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``README.md`` and its pictures into an edited folder, from what lies in it; return the path of the card.

    Args:
        folder: a folder that :func:`sith_hf.checkpoint.save_edited` wrote.
        overwrite: replace a card that was written or changed by hand.

    Raises:
        InputError, ArtifactError: as for :func:`folder_card`; a card changed by hand without ``overwrite``, or a folder
            that an earlier release saved, whose ``README.md`` is the base's.
        OutputError: it could not be written.
    """
    folder = Path(folder)
    card = folder / CARD
    if is_of_an_earlier_release(folder):
        raise InputError(f"{folder} was saved by an earlier release, and {CARD} is its base's: save the edit again")
    if os.path.lexists(card) and not overwrite and not is_generated_file(card):
        raise InputError(f"{card} was written or changed by hand; --overwrite replaces it")
    text = with_checksum(folder_card(folder))
    drawn = folder_pictures(folder)
    for name, content in drawn.items():
        write_whole(folder / name, content)
    if BEFORE_AFTER_FILE not in drawn:
        (folder / BEFORE_AFTER_FILE).unlink(missing_ok=True)  # of measurements that were removed
    write_whole(card, text.encode("utf-8"))
    return card


def recorded_bases(base: BaseRef, folder: Path) -> list[str]:
    """Return the Hub ids that the files of a base name as where it comes from; empty for a base that is a commit there.

    The first of these that names any: an edit in the base, ``base_model`` in the metadata of its card, and
    ``_name_or_path`` in its ``config.json``. A local path is never an id.

    Args:
        base: of the edit.
        folder: the edited checkpoint.
    """
    if hub_base(base) is not None:
        return []
    found = record(folder)
    earlier = [path for name, path in found.items() if name.endswith(f"base/{EDIT_SPEC_LAYOUT.filename}")]
    pinned = (hub_base(EditSpec.from_pretrained(path).base) for path in reversed(earlier))
    named = (card_metadata(found.get(f"base/{CARD}")) or {}).get("base_model")
    recorded = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    for names in (list(pinned), recorded, [json_fields(folder / "config.json").get("_name_or_path")]):
        if ids := list(dict.fromkeys(str(name) for name in names if _is_id(name))):
            return ids[:_MOST_BASES]
    return []


def _is_id(name: object) -> bool:
    """Return whether a recorded name is an id on the Hub, and not a folder of this machine."""
    given = isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~" and is_repo_name(name)
    return given and not os.path.exists(str(name))


def card_metadata(card: Path | None) -> dict[str, Any] | None:
    """Return the metadata at the start of a card; None without any, or if they are not YAML of a usual length."""
    if card is None:
        return None
    try:
        text = read_start(card, _LONGEST_METADATA).decode("utf-8", "replace")
        text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        head, fence, _ = text.removeprefix("---\n").partition("\n---\n")
        found = yaml.safe_load(head) if fence and text.startswith("---\n") else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _read(path: Path, what: str) -> str:
    return read_text_input(path, what, "save the checkpoint again", _LONGEST_RECORD)
