"""Render the Jinja templates in ``hub_cards/``, and escape text from outside in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from sith_hf.core.escaping import impersonal, sanitize
from sith_hf.core.formatting import count, counted, factor, fraction, interval, listed, percent, signed, weight

# Characters with a meaning in Markdown, its extensions (tables, mathematics, autolinks) and emoji codes.
_MARKS = "\\`*_{}[]()#+!|~$:@^="


def render(name: str, **data: Any) -> str:
    """Render a template of ``hub_cards/``, in which the filters ``cell`` and ``fenced`` escape every text from outside.

    Args:
        name: the file name of the template.
        data: its variables; a missing one is an error.
    """
    return str(environment().get_template(name).render(**data))


@cache
def environment() -> Any:
    """Return the Jinja environment of the templates, with our filters."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("sith_hf.hub_cards")
    made = Environment(
        loader=FunctionLoader(lambda file: (folder / file).read_text(encoding="utf-8")),
        autoescape=False,  # HTML escaping does not escape Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"cell": markdown_text, "fenced": fenced, "cells": _cells}
    made.filters |= {each.__name__: each for each in (fraction, signed, interval, weight, percent, factor, count)}
    made.filters |= {"counted": counted, "listed": listed}
    return made


def _cells(values: Sequence[object], limit: int = 200) -> list[str]:
    """Return each text escaped by :func:`markdown_text`."""
    return [markdown_text(value, limit) for value in values]


def markdown_text(value: object, limit: int = 200) -> str:
    """Escape text for Markdown, Markdown tables and HTML, anywhere in a line.

    The result is one line of at most ``limit`` characters before escaping, without tokens and local folders
    (:func:`impersonal`).
    """
    text = sanitize(impersonal(str(value)), limit)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = "".join(f"\\{character}" if character in _MARKS else character for character in text)
    # A leading hyphen or "1. " would begin a list, and "www." a link.
    text = re.sub(r"^(\s*)-", r"\1\\-", text)
    text = re.sub(r"^(\s*\d+)\.(?=\s|$)", r"\1\\.", text)
    return re.sub(r"(?i)(www)\.", r"\1\\.", text)


def fenced(value: object, language: str = "") -> str:
    """Return text of any length as a Markdown code block that no line of it can close."""
    lines = [sanitize(line, len(line)) for line in impersonal(str(value)).replace("\t", "    ").split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])
