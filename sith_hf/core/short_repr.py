"""Short text forms of dataclasses: numbers rounded, tensors by their shape, long parts by their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from sith_hf.core.escaping import sanitize

_Class = TypeVar("_Class", bound=type)

# Items that are listed; longer parts are counted.
_MOST = 4
_LONGEST = 400


def short_repr(cls: _Class) -> _Class:
    """Give a dataclass a ``repr`` on one line of at most 400 characters; decorate it above ``@dataclass``.

    Fields with ``repr=False`` are left out, and so are those whose value is None.
    """
    cls.__repr__ = _repr  # type: ignore[method-assign, assignment]
    return cls


def short(value: Any) -> str:
    """Return a value as a short text: ``0.312``, ``[24, 16, 64] float32``, ``(120 items)``."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, (str, PurePath)):
        return f"'{sanitize(str(value), 80)}'"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{list(value.shape)} {str(value.dtype).rpartition('.')[2]}"
    if isinstance(value, Mapping):
        return f"{{{_listed([f'{short(key)}: {short(item)}' for key, item in _few(value.items())], len(value))}}}"
    if isinstance(value, Sequence | set | frozenset):
        # A dataclass is long: those in a list are counted.
        shown = [] if any(map(is_dataclass, value)) else [short(item) for item in _few(value)]
        return f"({_listed(shown, len(value))})"
    return sanitize(repr(value), 120) if is_dataclass(value) else f"<{type(value).__name__}>"


def _few(items: Any) -> list[Any]:
    return list(items) if len(items) <= _MOST else []


def _listed(shown: Sequence[str], count: int) -> str:
    return ", ".join(shown) if len(shown) == count else f"{count} items"


def _repr(self: Any) -> str:
    found = ((item.name, getattr(self, item.name)) for item in fields(self) if item.repr)
    parts = ", ".join(f"{name}={short(value)}" for name, value in found if value is not None)
    name = type(self).__name__
    return f"{name}({sanitize(parts, _LONGEST - len(name) - 2)})"
