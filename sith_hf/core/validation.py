"""Validation of numbers from Python, NumPy and torch with one message for each mistake, and help for mistyped words."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from sith_hf.errors import InputError


def whole_number(value: Any, what: str, least: int | None = None, most: int | None = None) -> int:
    """Return ``value`` as an int.

    Raises:
        InputError: not an integer (a bool is not one), or not from ``least`` to ``most``.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{what} must be an integer; got {value!r}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise InputError(f"{what} must be {limits}; got {number}")
    return number


def finite_number(value: Any, what: str) -> float:
    """Return ``value`` as a float. Raises InputError unless it is a finite number (a bool is not one)."""
    try:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        number = float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} must be a finite number; got {value!r}")
    return number


def whole_numbers(values: Any, what: str) -> list[int]:
    """Return ``values`` as a list of ints. Raises InputError unless they are a collection of integers."""
    try:
        items = list(values)
    except TypeError:
        raise InputError(f"{what} must be a list of integers; got {values!r}") from None
    return [whole_number(item, f"each of {what}") for item in items]


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known words that are spelled most like ``word``, such as ``beach or leech``; None if none is alike.

    Args:
        word: mistyped; case does not matter.
        known: the words that exist. Of names with a path, such as ``paper/dtd``, the last part counts too.
        cutoff: the least similarity, from 0 to 1.
    """
    spelled: dict[str, str] = {}
    for item in known:
        spelled.setdefault(item.casefold().rpartition("/")[2], item)
        spelled[item.casefold()] = item
    word = word.casefold()
    found = list(dict.fromkeys(spelled[each] for each in get_close_matches(word, spelled, n=3, cutoff=cutoff)))

    def likeness(item: str) -> float:
        parts = {item.casefold(), item.casefold().rpartition("/")[2]}
        return max(SequenceMatcher(a=part, b=word).ratio() for part in parts)

    alike = [item for item in found if likeness(item) > likeness(found[0]) - 0.05]
    return " or ".join(alike) or None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean X?)`` for the known words that are spelled most like ``word``; empty if none is."""
    close = nearest(word, known, cutoff=0.75)
    return f" (did you mean {close}?)" if close else ""
