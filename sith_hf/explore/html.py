"""HTML of the page's parts, from Jinja templates that escape every text."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sith_hf.core.escaping import sanitize

# The most characters of a text.
_MOST = 2000


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
    """Return a share in percent, with two digits: ``12 %``, ``3.4 %``, ``<0.1 %``, ``0 %``."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or not value else f"{value:.1f} %" if value >= 0.05 else "<0.1 %"


def verbatim(text: str) -> Markup:
    """Return a text that a button of the page sends back, for its attribute: escaped, and every character as it is.

    Other texts of a page show hidden characters, such as the joiners of emoji, as ``\\u200d``.
    """
    return Markup("").join(
        escape(character) if character.isprintable() else Markup(f"&#{ord(character)};") for character in text[:_MOST]
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sith_hf.explore"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: sanitize(value, _MOST) if type(value) is str else value,
    )
    environment.filters |= {"picture": picture, "percent": percent, "verbatim": verbatim}
    return environment
