"""The servers that a recipe's judges ask: only those that the user named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sith_hf.errors import InputError
from sith_hf.judges import JudgeSettings, LanguageModelJudgeSettings, check_judge_server
from sith_hf.recipe.overrides import overridden_values
from sith_hf.recipe.recipe import Recipe

_KEY = "base_url"


def check_servers(recipe: Recipe, named: Iterable[str]) -> None:
    """Check the servers of a recipe before any work is done.

    Args:
        recipe: a recipe, which may be another person's.
        named: the servers that the user named.

    Raises:
        InputError: a judge asks a server that the user did not name, or a named server that no judge asks.
    """
    named = tuple(named)
    judges = [*_judges(recipe)]
    for settings in judges:
        check_judge_server(settings, named)
    asked = [s.base_url for s in judges if isinstance(s, LanguageModelJudgeSettings) and s.base_url is not None]
    if named and not asked:
        raise InputError(f"no judge of the recipe asks a server, so {named[0]} has no effect: leave out --base-url")


def named_servers(overrides: Iterable[str]) -> list[str]:
    """Return the servers that overrides name, such as ``edits.0.judge.base_url=http://localhost:8000/v1``."""
    found: list[str] = []
    for keys, value in overridden_values(overrides):
        found += _texts({keys[-1]: value})
    return found


def _judges(recipe: Recipe) -> Iterator[JudgeSettings]:
    for step in recipe.edits:
        for name in ("judge", "keep"):
            if (judge := getattr(step, name, None)) is not None:
                yield judge


def _texts(data: Any) -> Iterator[str]:
    """Yield the value of every key ``base_url``, at any depth."""
    if isinstance(data, dict):
        if isinstance(data.get(_KEY), str):
            yield data[_KEY]
        data = list(data.values())
    for item in data if isinstance(data, list) else ():
        yield from _texts(item)
