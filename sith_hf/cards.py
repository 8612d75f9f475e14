"""Model cards, from the templates in ``hub_cards/``; text from outside is escaped before it gets into one."""

from __future__ import annotations

from importlib.resources import files

from sith_hf.display import plain
from sith_hf.edits import EditSpec


def edited_card(spec: EditSpec) -> str:
    """A short account of an edit in Markdown: what was changed, and how to check and revert it."""
    from jinja2 import Environment, StrictUndefined

    source = (files("sith_hf.hub_cards") / "edited_checkpoint.md.j2").read_text(encoding="utf-8")
    # Not HTML escaping, which would leave Markdown alive: every text passes the filter "cell".
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["cell"] = markdown_text
    return environment.from_string(source).render(spec=spec, rows=spec.rows())


def markdown_text(value: object) -> str:
    """Text that means nothing to Markdown, to a Markdown table, or to the HTML that they become."""
    text = plain(str(value), 200).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_{}[]()#+!|~$:" else character for character in text)
