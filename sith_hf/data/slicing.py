"""Slices of splits, such as ``train[:100]``, of datasets that are already open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError


def split_name(rows: Any) -> str:
    """Return the split that a dataset was saved from, ``train`` if it has none, as ``datasets`` calls it for a file."""
    name = re.match(r"\w+", str(rows.split or ""))
    return name[0] if name else "train"


def sliced(splits: Mapping[str, Any], spec: str, title: str) -> Any:
    """Return the rows of ``splits`` that a specification of ``datasets`` names.

    Raises:
        InputError: no such split, or not a specification.
    """
    from datasets import ReadInstruction, concatenate_datasets

    names = sanitize(", ".join(map(str, splits)), 400)
    try:
        lengths = {str(name): len(rows) for name, rows in splits.items()}
        parts = ReadInstruction.from_spec(spec).to_absolute(lengths)
    except (ValueError, AssertionError):
        raise InputError(
            f"{title} has no split {sanitize(spec)}; its splits are {names}, or parts such as train[:100] (--split)"
        ) from None
    chosen = [splits[part.splitname].select(range(part.from_ or 0, part.to or 0)) for part in parts]
    return chosen[0] if len(chosen) == 1 else concatenate_datasets(chosen)
