"""Numbers from outside: taken from Python, NumPy and torch alike, refused in one sentence where they do not fit."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any

from sith_hf.errors import InputError


def whole_number(value: Any, what: str, least: int | None = None, most: int | None = None) -> int:
    """``value`` as an int.

    Raises:
        InputError: not a whole number (a truth value is none), or not from ``least`` to ``most``.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is a whole number; got {value!r}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise InputError(f"{what} is {limits}; got {number}")
    return number


def finite_number(value: Any, what: str) -> float:
    """``value`` as a float. Raises InputError unless it is a finite number (a truth value is none)."""
    try:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        number = float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} is a finite number; got {value!r}")
    return number


def whole_numbers(values: Any, what: str) -> list[int]:
    """``values`` as a list of ints. Raises InputError for anything but a collection of whole numbers."""
    try:
        items = list(values)
    except TypeError:
        raise InputError(f"{what} is a list of whole numbers; got {values!r}") from None
    return [whole_number(item, f"each of {what}") for item in items]
