"""HTML for notebooks and pages: tables, bars and blocks. Texts are escaped; colours and fonts are the page's own.

Every function returns :class:`markupsafe.Markup`, which marks a text as HTML. Everything else is escaped when it is put
into HTML, so a function of this file may get texts of any origin. There are no scripts, no styles
elsewhere, and no addresses: the HTML looks the same in a light and in a dark notebook, and loads nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence

from markupsafe import Markup, escape

from sith_hf.core.escaping import sanitize
from sith_hf.core.formatting import fraction

LINE = "rgba(128,128,128,.35)"
"""The colour of lines, visible on white and on black."""

_FAINT = "opacity:.65"
_CELL = "padding:.15em .6em;vertical-align:top;background:none;border:0;overflow-wrap:break-word;"
_HEAD = f"{_CELL}border-bottom:1px solid {LINE};font-weight:600;white-space:nowrap;"
_TABLE = "border-collapse:collapse;border:0;margin:.2em 0;width:auto;color:inherit;background:none;font-size:inherit"


def text(value: object, limit: int = 120) -> Markup:
    """Return ``value`` as HTML: floats with three decimals, any other text on one line, sanitized and cut at ``limit``.

    A :class:`~markupsafe.Markup` is HTML already and returned unchanged.
    """
    if isinstance(value, Markup):
        return value
    return escape(fraction(value) if isinstance(value, float) else sanitize(str(value), limit))


def joined(parts: Iterable[object], by: str = ", ") -> Markup:
    """Return texts and pieces of HTML in a row."""
    return escape(by).join(text(part) for part in parts)


def faint(value: object) -> Markup:
    """Return a text that stands back."""
    return Markup('<span style="{}">{}</span>').format(_FAINT, text(value, 400))


def bar(share: float, label: str = "", *, width: float = 5.0) -> Markup:
    """Return a bar in the colour of the text, with a label to its right.

    Args:
        share: its length as a part of the whole, from 0 to 1; values beyond are cut.
        label: a short text, on the same line.
        width: of the whole, in em.
    """
    length = f"{width * min(max(share, 0.0), 1.0):.2f}em"
    style = f"display:inline-block;height:.6em;width:{length};background:currentColor;opacity:.45"
    drawn = Markup('<span aria-hidden="true" style="{}"></span>').format(style)
    return Markup('<span style="white-space:nowrap">{} {}</span>').format(drawn, text(label)) if label else drawn


def picture(png: bytes, name: str, height: float = 3.0) -> Markup:
    """Return a picture that is part of the HTML itself.

    Args:
        png: the file.
        name: what is read out in place of the picture.
        height: in em.
    """
    data, style = base64.b64encode(png).decode("ascii"), f"height:{height:.2f}em;vertical-align:top"
    return Markup('<img src="data:image/png;base64,{}" alt="{}" style="{}">').format(data, text(name), style)


def html_table(
    columns: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    dim: Collection[int] = (),
    more: int = 0,
) -> Markup:
    """Return a table.

    Args:
        columns: the headings, texts or HTML; none for a table without a heading.
        rows: cells in the same order, texts or HTML. Columns of numbers are right-aligned; floats get three decimals.
        dim: the numbers of rows that stand back, such as those of silent poles.
        more: how many rows were left out; a last line says so.
    """
    width = max((len(row) for row in rows), default=len(columns))
    numeric = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(width)]
    aligned = [f"text-align:{'right' if number else 'left'};" for number in numeric]
    head = Markup("").join(
        Markup('<th scope="col" style="{}">{}</th>').format(_HEAD + align, text(name))
        for name, align in zip(columns, aligned, strict=bool(columns))
    )
    body = [
        Markup('<tr style="background:none{}">{}</tr>').format(
            f";{_FAINT}" if number in dim else "",
            Markup("").join(
                Markup('<td style="{}">{}</td>').format(_CELL + align, text(cell, 400))
                for cell, align in zip(row, aligned, strict=True)
            ),
        )
        for number, row in enumerate(rows)
    ]
    if more:
        last = Markup('<tr style="background:none"><td colspan="{}" style="{}">{}</td></tr>')
        body.append(last.format(width, _CELL, faint(f"and {more:,} more")))
    heading = Markup("<thead><tr>{}</tr></thead>").format(head) if columns else Markup("")
    return Markup('<table class="sith" style="{}">{}<tbody>{}</tbody></table>').format(
        _TABLE, heading, Markup("").join(body)
    )


def fact_table(facts: Iterable[tuple[str, object]]) -> Markup:
    """Return names and values in two columns; a value of None is left out."""
    title = Markup('<span style="white-space:nowrap">{}</span>')
    return html_table([], [[title.format(faint(name)), text(value, 400)] for name, value in facts if value is not None])


def block(title: object, *parts: object) -> Markup:
    """Return a title with paragraphs, tables and other blocks below it; empty parts are left out."""
    part_of = Markup('<div style="overflow-x:auto">{}</div>')
    inside = Markup("").join(part_of.format(text(part, 400)) for part in parts if part)
    return Markup('<div style="color:inherit;line-height:1.45"><div><b>{}</b></div>{}</div>').format(
        text(title, 400), inside
    )


def folded(summary: object, part: Markup) -> Markup:
    """Return a part that the reader unfolds."""
    return Markup('<details><summary style="cursor:pointer">{}</summary>{}</details>').format(text(summary, 400), part)
