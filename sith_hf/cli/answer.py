"""Print a result as a person reads it: the answer first, then what one needs next, and the rest with ``--details``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from sith_hf.cli import messages

F = TypeVar("F", bound=Callable[..., Any])

_KEY = "sith_hf.details"

FEW = 6
"""The most rows of a table that is shown without ``--details``."""


def details(command: F) -> F:
    """Add ``--details`` to a command that has more to show than :func:`show_answer` prints without it."""

    def keep(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[_KEY] = value

    option = click.option(
        "--details",
        is_flag=True,
        expose_value=False,
        callback=keep,
        help="Print everything: whole tables, settings, and what the result was made of.",
    )
    return option(command)


def detailed() -> bool:
    """Return whether the user asked for ``--details``."""
    return bool(click.get_current_context().meta.get(_KEY))


def show_answer(as_json: bool, data: Any, answer: object, *lines: object, rest: Sequence[object] = ()) -> None:
    """Print ``data`` as JSON, or text.

    Args:
        as_json: whether to print ``data``, whole.
        data: plain data.
        answer: what the command found, in one line.
        lines: what one needs next, printed last: paths, commands.
        rest: what is printed between them with ``--details``; without, a line on stderr says that there is more.
    """
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False))
        return
    shown = [answer, *(rest if detailed() else ()), *lines]
    click.echo("\n".join(map(str, shown)))
    if rest and not detailed():
        messages.note("--details prints more")
