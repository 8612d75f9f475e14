"""Overrides of a recipe: ``--set decompose.layers=[-2,-1]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.core.ranges import is_range
from sith_hf.core.strict_yaml import read_yaml
from sith_hf.errors import InputError


def override_value(data: Any, override: str) -> Any:
    """Return a recipe's plain data with one value replaced or added.

    Args:
        data: the recipe.
        override: ``key.key=value``, the value in YAML.

    Raises:
        InputError: no ``=``, a value that is not YAML, an index outside a list, or a key below a plain value.
    """
    ((keys, value),) = overridden_values([override])
    return _with(data, keys, value, ".".join(keys))


def overridden_values(overrides: Iterable[str]) -> list[tuple[list[str], Any]]:
    """Return the keys and the value of each override. Raises InputError for another form."""
    found = []
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.split(".")
        if not separator or not all(keys):
            raise InputError(f"--set {sanitize(override)}: write key.key=value, such as decompose.layers=[-2,-1]")
        # In YAML, -4: is a mapping; after --set it can only be a range of layers.
        value = text.strip() if is_range(text) else read_yaml(text, f"--set {path}")
        found.append((keys, value))
    return found


def _with(data: Any, keys: list[str], value: Any, path: str) -> Any:
    """Return a copy of ``data`` with ``value`` at ``keys``."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(data, list):
        if not key.isdecimal() or int(key) >= len(data):
            raise InputError(f"--set {path}: {key} is not an index of a list of {len(data)} (the first is 0)")
        return [_with(item, rest, value, path) if i == int(key) else item for i, item in enumerate(data)]
    if data is not None and not isinstance(data, dict):
        raise InputError(f"--set {path}: {key} cannot be set inside the value {sanitize(str(data))}")
    return {**(data or {}), key: _with((data or {}).get(key), rest, value, path)}
