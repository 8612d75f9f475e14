"""The demo's result as a picture: samples of each group, and its accuracy before and after the edit."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sith_hf.charts import GRID, INK, SERIES
from sith_hf.demo.run import DemoResult
from sith_hf.files import write_whole
from sith_hf.world import TIED_PAIRS, render, sample_groups

SAMPLES, TILE, ROW, LABEL, BARS, MARGIN = 6, 72, 84, 190, 330, 16
EDITED, BASE = SERIES[:2]


def draw(result: DemoResult, seed: int) -> Image.Image:
    """Draw a row for each group: some of its pictures, and bars for base and edited accuracy.

    Args:
        result: of :func:`sith_hf.demo.run_demo`.
        seed: of the pictures.
    """
    groups = [(name, scenes) for pair in TIED_PAIRS for name, scenes in sample_groups(pair, SAMPLES, seed).items()]
    width, height = MARGIN * 2 + LABEL + SAMPLES * TILE + 40 + BARS, MARGIN * 2 + 40 + ROW * len(groups)
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    left, full = MARGIN + LABEL + SAMPLES * TILE + 40, BARS - 70
    pen.text((MARGIN, MARGIN), "object / background", INK, font)
    pen.text((left, MARGIN), "base", BASE, font)
    pen.text((left + 60, MARGIN), "edited", EDITED, font)
    pen.text((left + 130, MARGIN), "accuracy", INK, font)
    for number, (name, scenes) in enumerate(groups):
        top = MARGIN + 40 + number * ROW
        pen.text((MARGIN, top + 24), name.replace("/", " / "), INK, font)
        for place, pixels in enumerate(render(scenes, seed + number)):
            tile = Image.fromarray(pixels).resize((TILE - 6, TILE - 6), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + LABEL + place * TILE, top + 4))
        for y, measured, colour in ((top + 10, result.base, BASE), (top + 40, result.edited, EDITED)):
            accuracy = measured.groups[name]
            pen.rectangle((left, y, left + full, y + 22), fill=GRID)
            pen.rectangle((left, y, left + round(full * accuracy), y + 22), fill=colour)
            pen.text((left + full + 10, y + 1), f"{100 * accuracy:.1f} %", INK, font)
    return sheet


def save_picture(result: DemoResult, seed: int) -> Path:
    """Write ``groups.png`` into the demo's folder and return its path. Raises OutputError."""
    path, content = result.folder / "groups.png", io.BytesIO()
    draw(result, seed).save(content, format="PNG")
    write_whole(path, content.getvalue())
    return path
