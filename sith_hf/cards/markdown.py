"""The Jinja templates in ``hub_cards/``: rendering them, and making text from outside harmless in them."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from sith_hf.core.escaping import sanitize

# What Markdown, its table, mathematics and autolink extensions, and emoji codes give a meaning to.
_MARKS = "\\`*_{}[]()#+!|~$:@^="

TOKEN = re.compile(r"(?<![A-Za-z0-9_])(hf_|api_org_)[A-Za-z0-9]{16,}")
_PATH = re.compile(
    r"(?:(?<=^)|(?<=[\s\"'(=,:;\[]))(?:file://)?(?:/|~/|[A-Za-z]:[\\/])(?:[^\s/\\\"'<>|]+[\\/])+(?=[^\s/\\]|$)"
)


def render(name: str, **data: Any) -> str:
    """A template of ``hub_cards/`` filled in. Every text from outside passes the filter ``cell`` or ``fenced`` in it.

    Args:
        name: the template's file name.
        data: what it is filled with; a name that the template uses and that is missing here is an error.
    """
    return str(environment().get_template(name).render(**data))


@cache
def environment() -> Any:
    """The ``jinja2.Environment`` of the templates, with the filters ``cell``, ``fenced`` and ``number``."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("sith_hf.hub_cards")
    made = Environment(
        loader=FunctionLoader(lambda file: (folder / file).read_text(encoding="utf-8")),
        autoescape=False,  # HTML escaping would leave Markdown alive
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"cell": markdown_text, "fenced": fenced, "number": number}
    return made


def markdown_text(value: object, limit: int = 200) -> str:
    """Text that means nothing to Markdown, to a Markdown table, or to the HTML that they become.

    It stands on one line, is cut at ``limit`` characters, and names neither a token nor a local folder
    (:func:`impersonal`). It may stand anywhere in a line, the beginning included.
    """
    text = sanitize(impersonal(str(value)), limit)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = "".join(f"\\{character}" if character in _MARKS else character for character in text)
    # A leading hyphen or "1. " would begin a list, and "www." a link.
    text = re.sub(r"^(\s*)-", r"\1\\-", text)
    text = re.sub(r"^(\s*\d+)\.(?=\s|$)", r"\1\\.", text)
    return re.sub(r"(?i)(www)\.", r"\1\\.", text)


def fenced(value: object, language: str = "") -> str:
    """Text of any length as a Markdown code block, line by line, that nothing in it can close."""
    lines = [sanitize(line, len(line)) for line in impersonal(str(value)).replace("\t", "    ").split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def impersonal(text: str) -> str:
    """``text`` without tokens of the Hub, and with absolute local paths cut down to their last part."""
    return _PATH.sub("…/", TOKEN.sub(r"\1…", text))


def number(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.3g}"
