"""What belongs to a checkpoint folder: an allow-list of the files that are copied and published.

A link is followed only to a file in the same folder, or to a blob of the same repository in the Hub's cache.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sith_hf.checkpoint.file_kinds import danger, is_other_weights
from sith_hf.checkpoint.pictures import named_pictures
from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import json_fields, open_regular, reason
from sith_hf.core.secrets import find_token, known_tokens
from sith_hf.edits import EDIT_SPEC_LAYOUT, EFFECT
from sith_hf.errors import InputError
from sith_hf.hub import CARD, is_generated_file
from sith_hf.towers import INDEX, OPEN_CLIP, Checkpoint, folder_format

SITH = "sith"
# The card of the base in folders that earlier releases published; now it is base/README.md below sith/.
EARLIER_BASE_CARD = "base_card.md"
# The record of an edit in sith/; that of an edit before it is in sith/base/, and so on.
RECORD = (EDIT_SPEC_LAYOUT.filename, "recipe.yaml", "evaluation.json", EFFECT, "edit_map.png", "before_after.png")

_LICENCES = ("license*", "licence*", "notice*", "copying*", "copyright*", "unlicense*", "use_policy*")
SPARE = "it is not part of the checkpoint (--include adds files)"
HIDDEN = "it is hidden"
EARLIER = "an earlier release wrote it; README.md replaces it"
OTHER_WEIGHTS = "it holds weights without the edit"
# The largest tokenizer_config.json that is read for the tokenizer's class.
_LONGEST_CONFIG = 64 * 2**20


@dataclass(frozen=True)
class Contents:
    """The files of a checkpoint folder besides its weights, their index, ``README.md`` and ``sith/``.

    Attributes:
        files: name to path of the files that belong to it or were included.
        pictures: the names among them that only a card refers to.
        left_out: name to reason, of every other file; the name of a hidden or linked folder ends with a slash.
    """

    files: Mapping[str, Path]
    pictures: frozenset[str]
    left_out: Mapping[str, str]


def contents(checkpoint: Checkpoint, include: Iterable[str] = ()) -> Contents:
    """Sort the files of a checkpoint folder by the allow-list.

    Args:
        checkpoint: the checkpoint.
        include: patterns of more files, as in ``fnmatch``: ``*`` also matches a slash. Hidden files need their dot
            spelled out.

    Raises:
        InputError: a file that the model needs is no file of the folder, or a pattern matches nothing, or a file that
            must not be included.
    """
    folder = checkpoint.folder
    listed, left_out = _listed(folder)
    ours, cards = _weights(checkpoint), _cards(folder)
    ours |= {CARD, *(path.relative_to(folder).as_posix() for path in record(folder).values())}
    if (problem := _unfit(folder, folder / CARD)) is not None and os.path.lexists(folder / CARD):
        left_out[CARD] = problem
    needed, pictures = model_files(folder), named_pictures(cards, listed)
    included = _included(folder, listed, left_out, ours, (include,) if isinstance(include, str) else tuple(include))
    files: dict[str, Path] = {}
    twins = {name.casefold(): name for name in ours}
    for name in (name for name in listed if name not in ours):
        path, wanted = folder / name, name in needed or name in included
        if not wanted and name not in pictures and not _is_licence(name):
            left_out[name] = _why_left_out(folder, path)
        elif (problem := _unfit(folder, path) or _same_but_for_case(name, twins)) is None:
            files[name] = path
            twins[name.casefold()] = name
        elif wanted:
            why = "--include adds it" if name in included else "the model needs this file"
            raise InputError(f"{sanitize(str(path), 400)}: {problem}, but {why}; put the file itself there")
        else:
            left_out[name] = problem
    return Contents(files, frozenset(pictures) & set(files), dict(sorted(left_out.items())))


def model_files(folder: Path) -> frozenset[str]:
    """Return the names that transformers reads from a folder besides weights, by its own constants.

    open_clip reads the tokenizer by transformers, and its own configuration in place of the others.
    """
    from transformers import tokenization_utils_base as tokenizers
    from transformers import utils

    config = {utils.CONFIG_NAME, utils.GENERATION_CONFIG_NAME}
    processor = {utils.IMAGE_PROCESSOR_NAME, utils.PROCESSOR_NAME, utils.LEGACY_PROCESSOR_CHAT_TEMPLATE_FILE}
    if folder_format(folder) is OPEN_CLIP:
        config, processor = {OPEN_CLIP.config}, set()
    tokenizer = {tokenizers.TOKENIZER_CONFIG_FILE, tokenizers.FULL_TOKENIZER_FILE, tokenizers.CHAT_TEMPLATE_FILE}
    tokenizer |= {tokenizers.SPECIAL_TOKENS_MAP_FILE, tokenizers.ADDED_TOKENS_FILE}
    templates = folder / tokenizers.CHAT_TEMPLATE_DIR
    if not templates.is_symlink():
        tokenizer |= {path.relative_to(folder).as_posix() for path in templates.glob("*.jinja")}
    return frozenset(config | processor | tokenizer | _vocabularies(folder / tokenizers.TOKENIZER_CONFIG_FILE))


def record(folder: Path) -> dict[str, Path]:
    """Return what an edited checkpoint records of its edits, by name below ``sith/``; empty for any other.

    The names are those of this release. ``base/README.md`` is the card of the base.
    """
    found: dict[str, Path] = {}
    earlier, at, prefix = is_of_an_earlier_release(folder), folder / SITH, ""
    if earlier and _unfit(folder, folder / CARD) is None:
        found[f"base/{CARD}"] = folder / CARD
    while at.is_dir() and not at.is_symlink():
        found |= {prefix + name: at / name for name in RECORD if _not_here(folder, at / name) is None}
        # In folders of earlier releases, README.md below sith/ is a summary of the edit.
        for card in [at / EARLIER_BASE_CARD, *([] if earlier else [at / "base" / CARD])]:
            if _unfit(folder, card) is None:
                found[f"{prefix}base/{CARD}"] = card
        at, prefix = at / "base", f"{prefix}base/"
    return found


def is_of_an_earlier_release(folder: Path) -> bool:
    """Return whether an earlier release saved this folder: ``README.md`` is the card of the base, not of the edit."""
    both = all(os.path.lexists(folder / SITH / name) for name in (EDIT_SPEC_LAYOUT.filename, CARD))
    return both and not is_generated_file(folder / CARD)


def own_card(folder: Path) -> Path | None:
    """Return the card that describes a checkpoint, edited or not; None without one."""
    here = _unfit(folder, folder / CARD) is None and not is_of_an_earlier_release(folder)
    return folder / CARD if here else None


def _weights(checkpoint: Checkpoint) -> set[str]:
    """Return the names of the weights and their index. Raises InputError if they or the edit spec are linked."""
    folder, spec = checkpoint.folder, f"{SITH}/{EDIT_SPEC_LAYOUT.filename}"
    names = {shard.path.name for shard in checkpoint.shards} | (set() if checkpoint.index is None else {INDEX})
    for name in sorted(names | ({spec} if os.path.lexists(folder / spec) else set())):
        if (problem := _not_here(folder, folder / name)) is not None:
            raise InputError(f"{folder / name}: {problem}; put the file itself into the folder")
    return names


def _cards(folder: Path) -> list[Path]:
    """Return the card of a folder, and those of its bases."""
    own = own_card(folder)
    bases = [path for name, path in record(folder).items() if PurePosixPath(name).name == CARD]
    return bases if own is None else [own, *bases]


def _why_left_out(folder: Path, path: Path) -> str:
    if path == folder / SITH / CARD and is_of_an_earlier_release(folder):
        return EARLIER
    return _not_here(folder, path) or (OTHER_WEIGHTS if is_other_weights(path) else danger(path) or SPARE)


def _listed(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names of all files that are not hidden, and hidden files and linked folders with the reason."""
    names: list[str] = []
    left_out: dict[str, str] = {}

    def failed(error: OSError) -> None:
        left_out[f"{PurePosixPath(Path(error.filename).relative_to(folder))}/"] = (
            f"it cannot be read ({error.strerror})"
        )

    for place, folders, files in os.walk(folder, onerror=failed):
        below = PurePosixPath(Path(place).relative_to(folder))
        for name in sorted(folders):
            linked = os.path.islink(os.path.join(place, name))
            if linked or name.startswith("."):
                left_out[f"{below / name}/"] = "it is a link to a folder" if linked else HIDDEN
        folders[:] = sorted(name for name in folders if f"{below / name}/" not in left_out)
        left_out |= {str(below / name): HIDDEN for name in files if name.startswith(".")}
        names += [str(below / name) for name in sorted(files) if not name.startswith(".")]
        # A folder of this name is found where the file is needed.
        names += [name for name in folders if below == PurePosixPath()]
    wanted = model_files(folder)
    return [name for name in sorted(names) if name in wanted or not os.path.isdir(folder / name)], left_out


def _included(
    folder: Path, listed: list[str], hidden: dict[str, str], others: set[str], patterns: tuple[str, ...]
) -> set[str]:
    """Return the names that the patterns add. Raises InputError for a pattern or a file that cannot be used."""
    found: set[str] = set()
    known = set(listed)
    for pattern in patterns:
        parts = PurePosixPath(pattern).parts if isinstance(pattern, str) else ()
        if not parts or ".." in parts or "\\" in pattern or parts[0].startswith(("/", "~")):
            raise InputError(f"--include {sanitize(str(pattern))!r}: name files inside the folder, such as '*.txt'")
        spelled = [name for name in hidden if any(part.startswith(".") for part in parts)]
        matched = [name for name in (*listed, *spelled) if fnmatch.fnmatchcase(name.rstrip("/"), pattern)]
        if not matched:
            raise InputError(f"--include {sanitize(pattern)!r} matches no file of {folder}: check the pattern")
        for name in (name for name in matched if name not in others):
            path = folder / name
            problem = _unfit(folder, path) or (OTHER_WEIGHTS if is_other_weights(path) else None) or _secret(path)
            if problem is not None:
                raise InputError(
                    f"--include {sanitize(pattern)!r} matches {sanitize(name)}, which cannot be included: {problem}; "
                    "use a pattern that does not match it"
                )
            hidden.pop(name, None)
            found.add(name)
            if name not in known:
                listed.append(name)
                known.add(name)
    return found


def _unfit(folder: Path, path: Path) -> str | None:
    """Return why a file must not be copied; None if it may be."""
    name = path.relative_to(folder).as_posix()
    if sanitize(name, len(name)) != name:
        return "its name has control characters"
    return _not_here(folder, path) or danger(path)


def _not_here(folder: Path, path: Path) -> str | None:
    """Return why a path is not a readable file of the folder; None if it is one."""
    try:
        home, real = folder.resolve(), path.resolve(strict=True)
        if not real.is_file():
            return "it is a folder" if real.is_dir() else "it is not a regular file"
        if real != home / path.relative_to(folder):
            inside = home in real.parents and not any(part.startswith(".") for part in real.relative_to(home).parts)
            if not inside and not _is_blob(home, real):
                return "it is a link out of the folder"
        return None if os.access(real, os.R_OK) else "it cannot be read (permission denied)"
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        return "it is a broken link" if path.is_symlink() else f"it cannot be read ({reason(error)})"


def _is_blob(home: Path, real: Path) -> bool:
    """Return whether a file is a blob of the repository in the Hub's cache whose snapshot holds the folder."""
    snapshots = (place.parent for place in (home, *home.parents) if place.parent.name == "snapshots")
    return any(real.parent == place.parent / "blobs" for place in snapshots)


def _is_licence(name: str) -> bool:
    parts = PurePosixPath(name).parts
    top = len(parts) == 1 or parts[0].lower() in ("licenses", "licences")
    return top and (len(parts) == 2 or any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in _LICENCES))


def _same_but_for_case(name: str, twins: Mapping[str, str]) -> str | None:
    twin = twins.get(name.casefold())
    return None if twin is None else f"its name differs from {twin} only by case"


def _secret(path: Path) -> str | None:
    """Return in words which token a file contains."""
    try:
        with open_regular(path) as file:
            found = find_token(iter(lambda: file.read(2**20), b""), known_tokens())
    except OSError as error:
        return f"it cannot be read ({reason(error)})"
    return None if found is None else f"it seems to contain {found}"


def _vocabularies(path: Path) -> set[str]:
    """Return the names of the vocabulary files of the tokenizer that a ``tokenizer_config.json`` names."""
    import transformers

    classes = ["CLIPTokenizer", "PreTrainedTokenizerFast", json_fields(path, _LONGEST_CONFIG).get("tokenizer_class")]
    found: set[str] = set()
    for name in classes:
        if isinstance(name, str) and name.isidentifier():
            try:
                names = getattr(getattr(transformers, name, None), "vocab_files_names", None)
            except (ImportError, RuntimeError):  # a tokenizer whose library is not installed
                continue
            if isinstance(names, Mapping):
                found |= {str(item) for item in names.values() if Path(str(item)).name == str(item)}
    return found
