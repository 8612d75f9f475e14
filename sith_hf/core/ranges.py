"""Choices of layers, heads and vectors by number: ``3,5,-1``, ``-4:``, ``:4``, ``8-11``, ``last4``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sith_hf.core.escaping import sanitize
from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError

EXAMPLES = "numbers such as 3,5,-1 or ranges such as -4:, :4, 8-11 or last4"

Numbers = str | Iterable[int | str]
"""A choice: a text, or numbers and ranges. Negative numbers count from the last."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
_BOUNDS = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")
_FROM_TO = re.compile(r"(-?[0-9]{1,9})-(-?[0-9]{1,9})")
_LAST = re.compile(r"last([0-9]{1,9})", re.IGNORECASE)


def parse_numbers(given: Numbers, what: str) -> tuple[int | str, ...]:
    """Return the numbers and ranges of a choice, in order; they may not exist.

    Args:
        given: a text with commas, or a collection of numbers and of such texts.
        what: what is chosen, such as ``"layers"``.

    Raises:
        InputError: anything else.
    """
    if isinstance(given, str):
        return tuple(_part(part.strip(), given, what) for part in given.split(","))
    try:
        items: list[Any] = list(given)
    except TypeError:
        raise InputError(f"{what} must be {EXAMPLES}; got {given!r}") from None
    found: list[int | str] = []
    for item in items:
        found += parse_numbers(item, what) if isinstance(item, str) else [whole_number(item, f"each of {what}")]
    return tuple(found)


def _part(part: str, text: str, what: str) -> int | str:
    if _NUMBER.fullmatch(part):
        return int(part)
    if _BOUNDS.fullmatch(part) or _FROM_TO.fullmatch(part) or _LAST.fullmatch(part):
        return part
    raise InputError(f"'{sanitize(text)}' is not a list of {what}: write {EXAMPLES}")


def is_range(text: str) -> bool:
    """Return whether a text is a choice with a range in it."""
    try:
        return any(isinstance(part, str) for part in parse_numbers(text, "numbers"))
    except InputError:
        return False


def choose_numbers(
    given: Numbers, what: str, known: Sequence[int], missing: Callable[[int], InputError]
) -> tuple[int, ...]:
    """Return the chosen ones of some numbers, in the order of the choice.

    ``a:b`` has ``a`` and not ``b``, as in Python, and ``a-b`` has both. Both bounds must be known; of a range with gaps
    the known numbers are chosen.

    Args:
        given: the choice.
        what: what is chosen, such as ``"layers"``.
        known: the numbers that exist, ascending.
        missing: makes the error about a number that does not exist.

    Raises:
        InputError: no choice, a number that does not exist, or an empty range.
    """

    def number(value: int) -> int:
        if value not in known and not -len(known) <= value < 0:
            raise missing(value)
        return value if value in known else known[value]

    def inside(part: str) -> list[int]:
        if found := _LAST.fullmatch(part):
            count = int(found[1])
            if not 1 <= count <= len(known):
                raise InputError(
                    f"{part} does not exist: there are {len(known)} {what}; write last1 to last{len(known)}"
                )
            return list(known[-count:])
        if found := _FROM_TO.fullmatch(part):
            first, last = number(int(found[1])), number(int(found[2]))
        else:
            bounds = _BOUNDS.fullmatch(part)
            assert bounds is not None  # parse_numbers has read it
            first = known[0] if bounds[1] is None else number(int(bounds[1]))
            last = known[-1] if bounds[2] is None else before(int(bounds[2]))
        chosen = [item for item in known if first <= item <= last]
        if not chosen:
            raise InputError(f"{part} has no {what}: the first number of a range comes first, as in 8-11 or 8:12")
        return chosen

    def before(stop: int) -> int:
        """Return the last number of a range that ends before ``stop``, which may be one above the last."""
        return stop - 1 if stop - 1 in known else number(stop) - 1

    found: list[int] = []
    for part in parse_numbers(given, what):
        found += [number(part)] if isinstance(part, int) else inside(part)
    return tuple(found)
