"""The Jinja templates in ``hub_cards/``: rendering them, and making text from outside harmless in them."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from sith_hf.display import plain


def render(name: str, **data: Any) -> str:
    """A template of ``hub_cards/`` filled in. Every text from outside passes the filter ``cell`` in the template."""
    from jinja2 import Environment, StrictUndefined

    source = (files("sith_hf.hub_cards") / name).read_text(encoding="utf-8")
    # Not HTML escaping, which would leave Markdown alive.
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["cell"] = markdown_text
    return environment.from_string(source).render(**data)


def markdown_text(value: object) -> str:
    """Text that means nothing to Markdown, to a Markdown table, or to the HTML that they become."""
    text = plain(str(value), 200).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_{}[]()#+!|~$:" else character for character in text)
