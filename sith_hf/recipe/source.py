"""Where a recipe comes from: a shipped one or a file, merged with what it extends and with overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_text_input
from sith_hf.errors import InputError
from sith_hf.recipe.overrides import with_override
from sith_hf.recipe.strict_yaml import read_yaml

EXTENDS = "extends"
MAX_BYTES = 10_000_000

# The keys of a recipe that can hold a path, and the keys of a dictionary that name the source of its concepts.
PLACES = frozenset({"file", "image_mean", "path", "prompt", "dataset", "model", "text_model"})
SOURCES = frozenset({"texts", "file", "dataset", "column"})


@dataclass(frozen=True)
class RecipeSource:
    """A recipe as plain data.

    Attributes:
        name: the name or path that it was loaded by.
        data: the YAML, merged with what it extends, and overridden.
        folder: the folder that relative paths in it start from.
    """

    name: str
    data: Mapping[str, Any]
    folder: Path

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Iterable[str] = ()) -> RecipeSource:
        """Read a recipe.

        Args:
            name_or_path: a YAML file, or the name of a recipe that comes with sith-hf.
            overrides: ``key.key=value`` (see :func:`sith_hf.recipe.overrides.with_override`).

        Raises:
            InputError: no such recipe, not YAML, a circle of ``extends``, or an override that does not fit.
        """
        data, folder = _extended(str(name_or_path), None, ())
        for override in overrides:
            data = with_override(data, override)
        return cls(str(name_or_path), data, folder)


def shipped_names() -> list[str]:
    """The names of the recipes that come with sith-hf; those of the paper are ``paper/NAME``."""
    root = files("sith_hf.recipes")
    here = [entry.name for entry in root.iterdir()]
    below = [f"paper/{entry.name}" for entry in (root / "paper").iterdir()] if (root / "paper").is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in [*here, *below] if name.endswith(".yaml"))


def shipped_text(name: str) -> str:
    """The YAML of a recipe that comes with sith-hf. Raises InputError for an unknown name."""
    known = shipped_names()
    if name not in known:
        raise InputError(f"no recipe {name!r} comes with sith-hf; there are {', '.join(known)}")
    return files("sith_hf.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def _read(name: str, folder: Path | None) -> tuple[str, str, Path]:
    """The text of a recipe, its identity, and the folder that its paths start from."""
    if re.fullmatch(r"[\w/-]+", name) and name in shipped_names():
        return shipped_text(name), f"recipe {name}", Path.cwd()
    path = Path(name) if folder is None else folder / name
    advice = f"name a file, or one of {', '.join(shipped_names())}"
    return read_text_input(path, "the recipe", advice, MAX_BYTES), str(path.resolve()), path.resolve().parent


def _extended(name: str, folder: Path | None, chain: tuple[str, ...]) -> tuple[dict[str, Any], Path]:
    text, identity, home = _read(name, folder)
    if identity in chain:
        circle = [*chain[chain.index(identity) :], identity]
        raise InputError(f"recipes extend each other in a circle: {' -> '.join(sanitize(item) for item in circle)}")
    data = read_yaml(text, name)
    if not isinstance(data, dict):
        raise InputError(f"{name}: a recipe is a mapping with title, base, dictionary, decompose, edits, ...")
    parent = data.pop(EXTENDS, None)
    if parent is None:
        return data, home
    if not isinstance(parent, str):
        raise InputError(f"{name}: extends names one recipe: a file, or one that comes with sith-hf")
    below, there = _extended(parent, home, (*chain, identity))
    below = _rooted(below, there) if there != home else below
    given = data.get("dictionary")
    if isinstance(given, dict) and isinstance(below.get("dictionary"), dict) and set(given) & SOURCES:
        # Another source of concepts replaces the one below.
        kept = {key: value for key, value in below["dictionary"].items() if key not in SOURCES}
        below = {**below, "dictionary": kept}
    return _merged(below, data), home


def _rooted(data: Any, folder: Path) -> Any:
    """``data`` with full paths for the files and folders below ``folder``."""
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
    """Mappings are merged key by key; everything else, lists too, is replaced."""
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both
