"""Contact sheets: for each pole its words, the images that drive it with the place in them, and random images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from sith_hf.charts import FAINT, GRID, INK, LOWERS, RAISES, drawable, fitted, font, new_sheet
from sith_hf.core.escaping import sanitize
from sith_hf.grounding.pole import GroundedPole
from sith_hf.grounding.view import opened
from sith_hf.towers import layer_title

SHOWN = 8
"""Images of each kind in a row."""

# Rows in one sheet.
_POLES = 20
_TILE, _GAP, _MARGIN, _TEXT, _HEAD, _LINE = 112, 6, 20, 330, 92, 20
_ROW = 2 * (_TILE + _GAP) + 24
# Columns of random images, in two lines.
_RANDOM = SHOWN // 2


def sheets(
    poles: Sequence[GroundedPole], pictures: Mapping[int, bytes], heading: str, settings: Mapping[str, Any]
) -> Iterator[Image.Image]:
    """Draw the contact sheets of poles, with 20 in each.

    A row has the strongest images above the same images with an overlay: orange where a patch raises the coefficient
    in the direction of the pole, blue where it lowers it, relative to the largest part in the row.

    Args:
        poles: of one model.
        pictures: row to picture, a PNG file; of the first ``SHOWN`` images of each kind.
        heading: a line above.
        settings: of the decomposed base.
    """
    for start in range(0, len(poles), _POLES):
        yield _sheet(poles[start : start + _POLES], pictures, heading, settings)


def _sheet(
    poles: Sequence[GroundedPole], pictures: Mapping[int, bytes], heading: str, settings: Mapping[str, Any]
) -> Image.Image:
    wide = _MARGIN * 2 + _TEXT + (SHOWN + _RANDOM) * (_TILE + _GAP) + 3 * _GAP
    sheet = new_sheet(wide, _HEAD + _ROW * len(poles) + _MARGIN)
    pen = ImageDraw.Draw(sheet)
    shown = fitted(heading, wide - 40, 18)
    pen.text((_MARGIN, 16), shown, INK, font(18, shown))
    pen.text((_tiles(0), 43), "strongest images; below, where the coefficient comes from", FAINT, font(14))
    pen.text((_tiles(0), 60), "orange raises it towards the pole, blue lowers it", FAINT, font(14))
    pen.text((_tiles(SHOWN) + 2 * _GAP, 60), "random images", FAINT, font(14))
    for number, pole in enumerate(poles):
        top = _HEAD + number * _ROW
        pen.line((_MARGIN, top - 12, wide - _MARGIN, top - 12), GRID)
        _words(pen, pole, layer_title(pole.layer, settings), top)
        _images(sheet, pictures, pole, top)
    return sheet


def _words(pen: ImageDraw.ImageDraw, pole: GroundedPole, layer: object, top: int) -> None:
    lines = [(f"layer {layer}, head {pole.head}, vector {pole.vector}, pole {pole.pole}", INK, 15)]
    if pole.explanation is not None:
        chance = " (no better than chance)" if pole.silent else ""
        lines.append((f"writes{chance}", FAINT, 13))
        colour = FAINT if pole.silent else INK
        lines += [(line, colour, 15) for line in _wrapped([text for text, _ in pole.explanation.concepts], 3)]
    if pole.driven_by is not None:
        lines.append(("driven by", FAINT, 13))
        named = [text for text, _ in pole.driven_by] or ["nothing beyond chance"]
        lines += [(line, INK if pole.driven_by else FAINT, 15) for line in _wrapped(named, 3)]
    if pole.agreement is not None:
        found = pole.agreement
        lines.append((f"words and images: AUC {found.auc:.2f}, p {found.p_value:.4f}", INK, 13))
    lines.append((f"{100 * pole.active:.0f} % of images on this side, at the {pole.where}", FAINT, 13))
    for number, (line, colour, size) in enumerate(lines):
        pen.text((_MARGIN, top + number * _LINE), line, colour, font(size, line))


def _images(sheet: Image.Image, pictures: Mapping[int, bytes], pole: GroundedPole, top: int) -> None:
    pen, strongest = ImageDraw.Draw(sheet), pole.images[:SHOWN]
    known = [image.patches for image in strongest if image.patches is not None]
    scale = max((float(patches.abs().max()) for patches in known), default=0.0)
    sign = 1 if pole.pole == "+" else -1
    for number, image in enumerate(strongest):
        picture, left = _tile(pictures[image.row]), _tiles(number)
        sheet.paste(picture, (left, top))
        if image.patches is not None:
            sheet.paste(overlay(picture, sign * image.patches, scale), (left, top + _TILE + _GAP))
        pen.text((left, top + 2 * _TILE + _GAP + 2), f"{image.coefficient:.3g}", FAINT, font(12))
    for number, image in enumerate(pole.random[: 2 * _RANDOM]):
        line, column = divmod(number, _RANDOM)
        left = _tiles(SHOWN + column) + 2 * _GAP
        sheet.paste(_tile(pictures[image.row]), (left, top + line * (_TILE + _GAP)))


def overlay(picture: Image.Image, patches: Tensor, scale: float) -> Image.Image:
    """Colour a picture by the parts of its patches: orange above zero, blue below, full at ``scale``.

    Args:
        picture: of any size.
        patches: ``[rows, columns]``.
        scale: the part that is coloured fully.
    """
    part = (patches.float() / scale if scale > 0 else torch.zeros_like(patches.float())).clamp(-1, 1)
    sized = Image.fromarray(part.numpy()).resize(picture.size, Image.Resampling.BILINEAR)
    strength = np.asarray(sized)[..., None]
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] * 0.5 + 100
    colour = np.where(strength > 0, *(np.array(ImageColor.getrgb(each), dtype=np.float32) for each in (RAISES, LOWERS)))
    share = np.abs(strength) * 0.85
    return Image.fromarray((grey * (1 - share) + colour * share).clip(0, 255).astype(np.uint8))


def _tile(file: bytes) -> Image.Image:
    picture = opened(file)
    picture.thumbnail((_TILE, _TILE))
    if max(picture.size) < _TILE:
        return picture.resize((_TILE, _TILE * picture.height // picture.width), Image.Resampling.NEAREST)
    return picture


def _tiles(number: int) -> int:
    return _MARGIN + _TEXT + number * (_TILE + _GAP)


def _wrapped(words: Sequence[str], most: int) -> list[str]:
    """Return words in at most so many lines that fit beside the images."""
    lines: list[str] = []
    for number, text in enumerate(words, 1):
        word = drawable(sanitize(text, 40), f"(concept {number})")
        joined = f"{lines[-1]}, {word}" if lines else word
        if lines and font(15, joined).getlength(joined) <= _TEXT - 20:
            lines[-1] = joined
        else:
            lines.append(word)
    return [fitted(line, _TEXT - 20, 15) for line in lines[:most]]
