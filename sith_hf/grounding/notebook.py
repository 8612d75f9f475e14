"""A grounding as HTML for notebooks: for each pole its words, what drives it, and small pictures of its images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image

from sith_hf.core.html import block, faint, html_table, picture, text
from sith_hf.decomposition import weighted_html
from sith_hf.grounding.pole import GroundedPole
from sith_hf.grounding.view import opened
from sith_hf.towers import layer_title

# Poles, and pictures of each, that are shown; pixels of a picture.
_POLES, _PICTURES, _SIDE = 10, 5, 48


def grounding_html(
    title: str,
    poles: Sequence[GroundedPole],
    pictures: Mapping[int, bytes],
    settings: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    """Return a table of the poles.

    Args:
        title: of the grounding.
        poles: of which the first are shown.
        pictures: row to picture, a PNG file.
        settings: of the base.
        notes: what is missing and why.
    """
    rows: list[list[object]] = []
    for pole in poles[:_POLES]:
        found = pole.agreement
        images = [_thumbnail(pictures[i.row], f"image {i.row}") for i in pole.images[:_PICTURES] if i.row in pictures]
        words = pole.explanation.concepts if pole.explanation is not None else ()
        driven = pole.driven_by
        rows.append(
            [
                layer_title(pole.layer, settings), pole.head, pole.vector, pole.pole,
                faint("silent") if pole.silent else weighted_html(words),
                "" if driven is None else weighted_html(driven) if driven else faint("silent"),
                "" if found is None else f"{found.auc:.2f}", Markup(" ").join(images),
            ]
        )  # fmt: skip
    columns = ["layer", "head", "vector", "pole", "writes (weight)", "driven by (correlation)", "AUC", "top images"]
    return block(title, html_table(columns, rows, more=len(poles) - len(rows)), *(faint(text(n, 300)) for n in notes))


def _thumbnail(file: bytes, name: str) -> Markup:
    image = opened(file)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    small = io.BytesIO()
    image.save(small, format="PNG")
    return picture(small.getvalue(), name)
