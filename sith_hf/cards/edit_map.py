"""The picture of a model card: the edited heads of each layer, coloured by gain."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import ceil, sqrt
from typing import TYPE_CHECKING

from sith_hf.charts import EDGE, EMPTY, FAINT, FRAME, INK, font, new_sheet, sheet_bytes
from sith_hf.core.formatting import counted
from sith_hf.edits import AnySpec, EditSpec
from sith_hf.errors import InputError
from sith_hf.towers import layer_title

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Colour = tuple[int, int, int]

# Gain to colour: blue below 1, orange above, darker away from 1; readers with any colour vision can separate them.
SCALE: tuple[tuple[float, Colour], ...] = (
    (-1.0, (16, 42, 92)),
    (0.0, (44, 123, 190)),
    (0.6, (158, 202, 230)),
    (1.0, (244, 244, 242)),
    (1.4, (250, 198, 138)),
    (2.0, (224, 124, 28)),
    (3.0, (122, 52, 4)),
)
TICKS = (
    (-1.0, "-1", "inverted"),
    (0.0, "0", "removed"),
    (1.0, "1", "kept"),
    (2.0, "2", "doubled"),
    (3.0, "3", "and above"),
)

# In pixels; an ordinary screen shows the picture at half its size. TOP is above the grid of each tower.
TITLE, TOP, LEFT, RIGHT, BOTTOM = 106, 130, 108, 76, 190
LEGEND = 640


def edit_map(spec: AnySpec, layers: Mapping[str, int]) -> bytes:
    """Draw a PNG of each edited tower: layers (rows, first on top) by heads (columns), a square for each edited vector.

    Squares are coloured by gain; those of one head are sorted by vector number. With one version of Pillow, the same
    arguments give the same bytes.

    Args:
        spec: the edit.
        layers: the number of layers of each edited tower.

    Raises:
        InputError: the edit changes a layer that the tower does not have.
    """
    from PIL import ImageDraw

    sizes = [(layers[part.tower], number_of_heads(part)) for part in spec.parts]
    for part, (num_layers, num_heads) in zip(spec.parts, sizes, strict=True):
        if any(layer >= num_layers or head >= num_heads for layer, head, _ in part.keys):
            raise InputError(f"the edit does not fit a tower of {num_layers} layers of {num_heads} heads: use its base")
    most = max(num_heads for _, num_heads in sizes)
    cell = min(76, max(48, 1160 // max(most, *(num_layers for num_layers, _ in sizes))))
    width = LEFT + max(most * cell, LEGEND) + RIGHT
    height = TITLE + sum(TOP + num_layers * cell for num_layers, _ in sizes) + BOTTOM
    image = new_sheet(width, height)
    draw = ImageDraw.Draw(image)

    title = map_text(spec)
    size = max((size for size in range(20, 35) if font(size, title).getlength(title) <= width - LEFT - 16), default=20)
    _text(draw, (LEFT, 34), title, size, INK)
    _text(draw, (LEFT, 80), "Each square is one edited vector, coloured by its gain.", 23, FAINT)
    top = TITLE
    for part, (num_layers, num_heads) in zip(spec.parts, sizes, strict=True):
        top += TOP
        _tower(draw, part, top, cell, num_layers, num_heads)
        top += num_layers * cell
    _legend(draw, top + 56)
    return sheet_bytes(image)


def map_text(spec: AnySpec) -> str:
    """Return what the picture shows: how many vectors in how many heads."""
    heads = sum(len({key[:2] for key in part.keys}) for part in spec.parts)
    return f"{counted(len(spec), 'singular vector')} in {counted(heads, 'attention head')}"


def number_of_heads(spec: EditSpec) -> int:
    """Return the number of heads in a layer of the spec's tower."""
    return int(spec.write.shape[1]) // int(spec.row.shape[1])


def _tower(draw: ImageDraw, spec: EditSpec, top: int, cell: int, num_layers: int, num_heads: int) -> None:
    """Draw the grid of one tower, with its name and axes above and beside it."""
    gains: dict[tuple[int, int], list[float]] = {}
    for (layer, head, _), gain in zip(spec.keys, spec.gain.tolist(), strict=True):
        gains.setdefault((layer, head), []).append(gain)
    _text(draw, (LEFT, top - 102), f"{spec.tower} tower", 26, INK)
    _axes(draw, top, cell, [str(layer_title(n, spec.base.settings)) for n in range(num_layers)], num_heads)
    for layer in range(num_layers):
        for head in range(num_heads):
            _cell(draw, LEFT + head * cell, top + layer * cell, cell, gains.get((layer, head), []))


def colour(gain: float) -> Colour:
    """Interpolate the colour of a gain between the points of SCALE; beyond its ends the colour is constant."""
    if gain <= SCALE[0][0]:
        return SCALE[0][1]
    for (low, below), (high, above) in pairwise(SCALE):
        if gain <= high:
            part = (gain - low) / (high - low)
            red, green, blue = (round(a + (b - a) * part) for a, b in zip(below, above, strict=True))
            return red, green, blue
    return SCALE[-1][1]


def _axes(draw: ImageDraw, top: int, cell: int, layers: list[str], num_heads: int) -> None:
    _text(draw, (LEFT, top - 62), "head", 23, FAINT)
    # Small cells have no room for every number.
    across = 1 if cell >= 44 or num_heads <= 10 else 2
    for head in range(0, num_heads, across):
        _text(draw, (LEFT + head * cell + cell // 2, top - 12), str(head), 22, INK, "ms")
    _text(draw, (LEFT - 18, top - 62), "layer", 23, FAINT, "ra")
    for number, layer in enumerate(layers):
        _text(draw, (LEFT - 18, top + number * cell + cell // 2), layer, 22, INK, "rm")


def _cell(draw: ImageDraw, x: int, y: int, cell: int, gains: list[float]) -> None:
    """Draw a head: an empty field, or the squares of its edited vectors."""
    draw.rounded_rectangle((x + 2, y + 2, x + cell - 3, y + cell - 3), radius=5, fill=EMPTY, outline=FRAME)
    if not gains:
        return
    side = max(2, ceil(sqrt(len(gains))))
    pad, gap = 6, 3 if side < 4 else 1
    step = max(2, (cell - 2 * pad + gap) // side)
    size = max(1, step - gap)
    # Centre the block of squares in the cell.
    across, down = min(len(gains), side), ceil(len(gains) / side)
    x, y = (start + (cell - 1 - count * step + gap) // 2 for start, count in ((x, across), (y, down)))
    for number, gain in enumerate(gains):
        left, top = x + (number % side) * step, y + (number // side) * step
        # Gains near 1 are almost white: their outline shows them.
        draw.rectangle(
            (left, top, left + size - 1, top + size - 1), fill=colour(gain), outline=EDGE if size > 5 else None
        )


def _legend(draw: ImageDraw, y: int) -> None:
    """Draw the colour bar with its ticks."""
    low, high = SCALE[0][0], SCALE[-1][0]
    _text(draw, (LEFT, y - 8), "gain", 23, FAINT)
    top, bottom = y + 28, y + 56
    for x in range(LEGEND):
        draw.line((LEFT + x, top, LEFT + x, bottom), fill=colour(low + (high - low) * x / (LEGEND - 1)))
    draw.rectangle((LEFT - 1, top - 1, LEFT + LEGEND, bottom + 1), outline=EDGE)
    for gain, value, meaning in TICKS:
        x = LEFT + round((LEGEND - 1) * (gain - low) / (high - low))
        draw.line((x, bottom + 2, x, bottom + 9), fill=EDGE, width=2)
        _text(draw, (x, bottom + 14), value, 22, INK, "ma")
        _text(draw, (x, bottom + 42), meaning, 21, FAINT, "ma")


def _text(draw: ImageDraw, at: tuple[int, int], text: str, size: int, fill: str, anchor: str = "la") -> None:
    draw.text(at, text, fill=fill, font=font(size, text), anchor=anchor)
