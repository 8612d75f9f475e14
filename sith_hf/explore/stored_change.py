"""Read the ``adaptation.json`` that ``sith-hf compare`` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sith_hf.core.reading import read_json_object
from sith_hf.errors import ArtifactError
from sith_hf.explore.compare_view import Direction, Pole, Word

STORED = "adaptation.json"

_TOP = {"base": str, "tuned": str, "tower": str, "changed_heads": int, "heads": list}
_HEAD = ("change_norm", "reweighting", "rotation", "new")


def read_change(path: Path) -> dict[str, Any]:
    """Return the object in the file. Raises ArtifactError unless it has what a comparison has."""
    data = read_json_object(path, "run sith-hf compare again")
    try:
        _check(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a comparison of sith-hf ({error!r}): run sith-hf compare again") from None
    return data


def _check(data: Mapping[str, Any]) -> None:
    for name, kind in _TOP.items():
        if not isinstance(data[name], kind):
            raise TypeError(name)
    for part in (data, *data["heads"]):
        for name in ("reweighting", "rotation", "new"):
            _number(part[name])
    _number(data["change"] or 0.0)
    for head in data["heads"]:
        _place(head)
        _number(head["change_norm"])
        _number(0.0 if head["relative"] is None else head["relative"])
        for angle in (*head["write_angles"], *head["read_angles"]):
            _number(angle)
    if not data["heads"]:
        raise ValueError("no heads")
    for item in data["words"] or []:
        _place(item)
        _number(item["share_of_head"])
        for pole in item["poles"]:
            if pole["pole"] not in ("+", "-") or not isinstance(pole["beyond_chance"], bool):
                raise ValueError("poles")
            for text, weight in pole["concepts"]:
                if not isinstance(text, str):
                    raise TypeError("concepts")
                _number(weight)


def _number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no number")


def _place(item: Mapping[str, Any]) -> None:
    if not all(type(item[name]) is int and 0 <= item[name] < 10**6 for name in ("layer", "head")):
        raise ValueError("layer, head")


def stored_directions(data: Mapping[str, Any], layer: int, head: int) -> tuple[Direction, ...] | None:
    """Return what the change of a head writes; None if it was not explained."""
    if data["words"] is None:
        return None
    return tuple(
        Direction(
            item["share_of_head"],
            tuple(
                Pole(pole["pole"], tuple(Word(text, w) for text, w in pole["concepts"]), not pole["beyond_chance"])
                for pole in item["poles"]
            ),
        )
        for item in data["words"]
        if (item["layer"], item["head"]) == (layer, head)
    )
