"""The picture of what was measured: bars of the base and of the edited model, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sith_hf.charts import EDGE, FAINT, INK, SERIES, drawable, fitted, font, new_sheet, sheet_bytes
from sith_hf.core.formatting import counted, fraction, percent
from sith_hf.edits import EditEffect, NamedEffect

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

# The most rows of each part of the picture.
MOST = 5

BASE, EDITED, CONTROL = FAINT, SERIES[0], SERIES[1]

# In pixels. A phone shows the picture at a third of its size, and its texts are still to be read.
WIDTH, LEFT, BARS, MARGIN = 960, 380, 450, 32
TOP, HEAD, ROW, BAR, GAP = 124, 92, 66, 25, 30


class Row(NamedTuple):
    """A line of the picture: a name, and bars from zero, each with its value as text."""

    name: str
    base: float
    edited: float
    base_text: str
    edited_text: str
    control: bool = False


class Part(NamedTuple):
    """A group of rows on one scale."""

    title: str
    rows: tuple[Row, ...]


def parts_of(effect: EditEffect | None, results: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """Return what the picture shows: the effect on named concepts, and measured results; empty if there is neither.

    Args:
        effect: of the edit.
        results: rows of :func:`sith_hf.cards.measured.measured_rows`.
    """
    found = [] if effect is None else [_kept(item, effect) for item in effect.named]
    # Figures of single classes and groups are in the table.
    whole = [row for row in results if not _is_part(row["metric"])] or list(results)
    rows = [Row(r["metric"], r["base"], r["edited"], fraction(r["base"]), fraction(r["edited"])) for r in whole[:MOST]]
    if rows:
        title = "Measured results" if len(rows) == len(results) else f"Measured results ({len(rows)} of {len(results)})"
        found.append(Part(title, tuple(rows)))
    return tuple(found)


def _is_part(metric: str) -> bool:
    return any(f", {kind} " in metric for kind in ("class", "group"))


def _kept(item: NamedEffect, effect: EditEffect) -> Part:
    what = "weakened" if item.direction == "less" else "strengthened"
    values = [(name, kept, False) for name, kept in list(item.kept.items())[:MOST]]
    if len(item.kept) > MOST:
        values.append((f"mean of all {counted(len(item.kept), 'concept')}", item.mean, False))
    values.append((f"{counted(effect.compared, 'other concept')}, median", item.others, True))
    if item.random is not None:
        values.append(("with random vectors", item.random, True))
    rows = [Row(name, 1.0, kept, percent(1.0), percent(kept), control) for name, kept, control in values]
    return Part(f"Similarity of images to {what} concepts: variation kept", tuple(rows))


def alt_text(parts: Sequence[Part]) -> str:
    """Return the figures of the picture in words: texts from outside."""
    said = []
    for part in parts:
        rows = [f"{row.name} {row.base_text} to {row.edited_text}" for row in part.rows]
        said.append(f"{part.title}, base to edited: {', '.join(rows)}")
    return ". ".join(said)


def before_after(parts: Sequence[Part]) -> bytes:
    """Draw a PNG. With one version of Pillow, the same parts give the same bytes."""
    from PIL import ImageDraw

    sheet = new_sheet(WIDTH, TOP + sum(HEAD + ROW * len(part.rows) for part in parts) + GAP)
    draw = ImageDraw.Draw(sheet)
    _text(draw, (MARGIN, 26), "Before and after the edit", 34, INK)
    controls = any(row.control for part in parts for row in part.rows)
    _legend(draw, [("base", BASE), ("edited", EDITED), *([("edited, to compare with", CONTROL)] if controls else [])])
    y = TOP
    for part in parts:
        _text(draw, (MARGIN, y + 38), drawable(part.title), 26, INK)
        y += HEAD
        values = [value for row in part.rows for value in (row.base, row.edited)]
        ends = min(0.0, *values), max(1.0, *values)
        for number, row in enumerate(part.rows):
            _row(draw, y + number * ROW, row, number + 1, *ends)
        y += ROW * len(part.rows)
    return sheet_bytes(sheet)


def _row(draw: ImageDraw, y: int, row: Row, number: int, low: float, high: float) -> None:
    """Draw the name of a row, which is the one of this number in its part, and its two bars."""
    name = fitted(drawable(row.name, f"(concept {number})"), LEFT - 16 - MARGIN, 25)
    _text(draw, (LEFT - 16, y + BAR), name, 25, INK, "rm")
    scale = BARS / (high - low)
    zero = LEFT + round(-low * scale)
    colours = (BASE, CONTROL if row.control else EDITED)
    pairs = zip((row.base, row.edited), (row.base_text, row.edited_text), colours, strict=True)
    for line, (value, text, colour) in enumerate(pairs):
        top, end = y + line * BAR, zero + round(value * scale)
        draw.rectangle((min(zero, end), top + 2, max(zero, end), top + BAR - 3), fill=colour)
        _text(draw, (max(zero, end) + 10, top + BAR // 2), text, 24, INK, "lm")
    draw.line((zero, y - 4, zero, y + 2 * BAR + 4), fill=EDGE, width=2)


def _legend(draw: ImageDraw, items: Sequence[tuple[str, str]]) -> None:
    x = MARGIN
    for name, colour in items:
        draw.rectangle((x, TOP - 26, x + 22, TOP - 4), fill=colour)
        _text(draw, (x + 34, TOP - 14), name, 25, INK, "lm")
        x += 34 + round(font(25, name).getlength(name)) + 48


def _text(draw: ImageDraw, at: tuple[int, int], text: str, size: int, fill: str, anchor: str = "la") -> None:
    draw.text(at, text, fill=fill, font=font(size, text), anchor=anchor)
