"""Read a recipe, shipped or a file, merge it with the one that it extends, and apply overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_text_input
from sith_hf.core.strict_yaml import MAX_CHARACTERS, read_yaml
from sith_hf.core.validation import did_you_mean
from sith_hf.errors import InputError
from sith_hf.recipe.overrides import override_value

EXTENDS = "extends"
# A text may have several bytes for each character that read_yaml accepts.
MAX_BYTES = 4 * MAX_CHARACTERS

# The keys of a recipe that can have a path as value, and the keys of a dictionary that give the source of its concepts.
PLACES = frozenset({"file", "from", "image_mean", "path", "prompt", "dataset", "model", "text_model"})
SOURCES = frozenset({"texts", "file", "dataset", "column"})


def load_data(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    fits: Callable[[dict[str, Any]], bool] = lambda data: True,
) -> tuple[dict[str, Any], Path]:
    """Read a recipe as plain data, merged with the recipe that it extends and overridden.

    Args:
        name_or_path: a YAML file, or the name of a recipe that comes with sith-hf.
        overrides: each replaces a value, or adds one to a mapping: ``key.key=value``, the value in YAML, such as
            ``decompose.layers=[-2,-1]`` or ``edits.0.gain=0.5``.
        fits: returns whether data may be a part of a recipe. A recipe may extend any file of the user; of one that is
            no recipe, no message quotes a line.

    Returns:
        The data, and the folder that relative paths in it start from.

    Raises:
        InputError: a recipe that does not exist or is not YAML, a circle of ``extends``, or an invalid override.
    """
    data, folder = _extended(str(name_or_path), None, (), fits)
    for override in overrides:
        data = override_value(data, override)
    return data, folder


def shipped_names() -> list[str]:
    """Return the names of the recipes that come with sith-hf; those of the paper are ``paper/NAME``."""
    root = files("sith_hf.recipes")
    here = [entry.name for entry in root.iterdir()]
    below = [f"paper/{entry.name}" for entry in (root / "paper").iterdir()] if (root / "paper").is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in [*here, *below] if name.endswith(".yaml"))


def shipped_text(name: str) -> str:
    """Return the YAML of a recipe that comes with sith-hf. Raises InputError for an unknown name."""
    known = shipped_names()
    if name not in known:
        raise InputError(
            f"no recipe {name!r} comes with sith-hf{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    return files("sith_hf.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _read(name: str, folder: Path | None) -> tuple[str, str, Path]:
    """Return the text of a recipe, its identity, and the folder that its paths start from."""
    if re.fullmatch(r"[\w/-]+", name) and name in shipped_names():
        return shipped_text(name), f"recipe {name}", Path.cwd()
    path = Path(name) if folder is None else folder / name
    known = shipped_names()
    advice = f"name a file, or one of {', '.join(known)}{did_you_mean(name, known)}"
    return read_text_input(path, "the recipe", advice, MAX_BYTES), str(path.resolve()), path.resolve().parent


def _extended(
    name: str, folder: Path | None, chain: tuple[str, ...], fits: Callable[[dict[str, Any]], bool]
) -> tuple[dict[str, Any], Path]:
    text, identity, home = _read(name, folder)
    if identity in chain:
        circle = [*chain[chain.index(identity) :], identity]
        raise InputError(f"recipes extend each other in a circle: {' -> '.join(sanitize(item) for item in circle)}")
    data = read_yaml(text, name, quote=not chain)
    if not isinstance(data, dict):
        raise InputError(f"{name}: a recipe is a mapping with title, base, dictionary, decompose, edits, ...")
    if chain and not fits({key: value for key, value in data.items() if key != EXTENDS}):
        raise InputError(
            f"{name}, which a recipe extends, is no recipe: it has keys or values that recipes do not have; "
            "run that file itself to see which"
        )
    parent = data.pop(EXTENDS, None)
    if parent is None:
        return data, home
    if not isinstance(parent, str):
        raise InputError(f"{name}: extends must name one recipe: a file, or one that comes with sith-hf")
    below, there = _extended(parent, home, (*chain, identity), fits)
    below = _rooted(below, there) if there != home else below
    given = data.get("dictionary")
    if isinstance(given, dict) and isinstance(below.get("dictionary"), dict) and set(given) & SOURCES:
        # Another source of concepts replaces the one below.
        kept = {key: value for key, value in below["dictionary"].items() if key not in SOURCES}
        below = {**below, "dictionary": kept}
    return _merged(below, data), home


def _rooted(data: Any, folder: Path) -> Any:
    """Return ``data`` with full paths for the files and folders below ``folder``."""
    if isinstance(data, list):
        return [_rooted(item, folder) for item in data]
    if not isinstance(data, dict):
        return data
    return {
        key: str((folder / value).absolute())
        if key in PLACES and isinstance(value, str) and os.path.exists(folder / value)
        else _rooted(value, folder)
        for key, value in data.items()
    }


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; replace everything else, lists too."""
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both
