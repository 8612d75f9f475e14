"""Numbers and lists in texts. Tables, cards and pictures write figures with these functions, so their digits agree."""

from __future__ import annotations

from collections.abc import Sequence


def fraction(value: float) -> str:
    """Return a measured figure with three decimals, such as an accuracy in [0, 1]."""
    return f"{value:.3f}".replace("-0.000", "0.000")


def signed(value: float) -> str:
    """Return the difference of two figures of :func:`fraction`, with its sign."""
    return f"{value:+.3f}".replace("-0.000", "+0.000")


def interval(ends: tuple[float, float]) -> str:
    """Return the interval of a difference, lower end first."""
    return f"[{signed(ends[0])}, {signed(ends[1])}]"


def weight(value: float) -> str:
    """Return the weight of a concept in an explanation, or a correlation, with two decimals."""
    return f"{value:.2f}"


def percent(value: float) -> str:
    """Return a share in whole percent."""
    return f"{value:.0%}".replace("-0%", "0%") if abs(value) < 0.01 else f"{value:.0%}"


def factor(gain: float) -> str:
    """Return a gain with three significant digits."""
    return f"{gain:.3g}"


def count(number: int) -> str:
    """Return a whole number with a comma between thousands."""
    return f"{number:,}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 vector``, ``1,536 vectors``; ``plural`` if that is not the noun with an s."""
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"


def listed(items: Sequence[str], most: int | None = None) -> str:
    """Return texts as a list: ``a``, ``a and b``, ``a, b and c``; beyond ``most`` of them ``a, b and 3 more``."""
    shown = list(items)
    if most is not None and len(shown) > most:
        shown = [*shown[:most], f"{count(len(shown) - most)} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""
