"""HTML of the page's parts, from Jinja templates that escape every text."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sith_hf.core.escaping import sanitize


def render(template: str, **values: Any) -> str:
    """Return a template of ``explore/templates`` filled with ``values``; every text in them is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sith_hf.explore"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: sanitize(value, 2000) if type(value) is str else value,
    )
