"""HTML of the page's parts, from Jinja templates that escape every text."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sith_hf.core.escaping import sanitize


def render(template: str, **values: Any) -> str:
    """Return a template of ``explore/templates`` filled with ``values``; every text in them is escaped."""
    return _environment().get_template(template).render(**values)


def message(text: str, *, alert: bool = False) -> str:
    """Return a text in place of a part of the page; ``alert``: something went wrong."""
    return render("message.html.j2", text=text, alert=alert)


def picture(png: bytes) -> Markup:
    """Return a PNG file as the source of an image, inside the page itself."""
    return Markup("data:image/png;base64,") + b64encode(png).decode("ascii")


def percent(share: float) -> str:
    """Return a share as a percentage for a reader: two digits where they matter."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sith_hf.explore"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: sanitize(value, 2000) if type(value) is str else value,
    )
    environment.filters |= {"picture": picture, "percent": percent}
    return environment
