"""The demo's result as a picture: samples of each group, and its accuracy before and after the edit."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from sith_hf.charts import FAINT, GRID, INK, SERIES, font, new_sheet, sheet_bytes
from sith_hf.demo.run import DemoResult
from sith_hf.files import write_whole
from sith_hf.world import TIED_PAIRS, render, sample_groups

SAMPLES, TILE, ROW, LABEL, BARS, MARGIN, HEAD = 6, 72, 84, 190, 330, 20, 112
EDITED, BASE = SERIES[:2]


def draw(result: DemoResult, seed: int) -> Image.Image:
    """Draw a row for each group: some of its pictures, and bars for base and edited accuracy.

    Args:
        result: of :func:`sith_hf.demo.run_demo`.
        seed: of the pictures.
    """
    groups = [(name, scenes) for pair in TIED_PAIRS for name, scenes in sample_groups(pair, SAMPLES, seed).items()]
    left, full = MARGIN + LABEL + SAMPLES * TILE + 40, BARS - 70
    sheet = new_sheet(left + BARS + MARGIN, HEAD + ROW * len(groups) + MARGIN)
    pen = ImageDraw.Draw(sheet)
    before, after = (min(measured.groups.values()) for measured in (result.base, result.edited))
    finding = f"The worst group: {100 * before:.1f} % before the edit, {100 * after:.1f} % after"
    pen.text((MARGIN, 20), finding, INK, font(24))
    pen.text((MARGIN, 54), "Accuracy in pictures of objects on their usual and on other backgrounds", FAINT, font(17))
    pen.text((MARGIN, HEAD - 28), "object / background", FAINT, font(17))
    pen.text((left, HEAD - 28), "base", BASE, font(17))
    pen.text((left + 60, HEAD - 28), "edited", EDITED, font(17))
    pen.text((left + 130, HEAD - 28), "accuracy, %", FAINT, font(17))
    for number, (name, scenes) in enumerate(groups):
        top = HEAD + number * ROW
        pen.text((MARGIN, top + 24), name.replace("/", " / "), INK, font(17))
        for place, pixels in enumerate(render(scenes, seed + number)):
            tile = Image.fromarray(pixels).resize((TILE - 6, TILE - 6), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + LABEL + place * TILE, top + 4))
        for y, measured, colour in ((top + 10, result.base, BASE), (top + 40, result.edited, EDITED)):
            accuracy = measured.groups[name]
            pen.rectangle((left, y, left + full, y + 22), fill=GRID)
            if accuracy > 0:
                pen.rectangle((left, y, left + round(full * accuracy), y + 22), fill=colour)
            pen.text((left + full + 10, y + 1), f"{100 * accuracy:.1f}", INK, font(17))
    return sheet


def save_picture(result: DemoResult, seed: int) -> Path:
    """Write ``groups.png`` into the demo's folder and return its path. Raises OutputError."""
    path = result.folder / "groups.png"
    write_whole(path, sheet_bytes(draw(result, seed)))
    return path
