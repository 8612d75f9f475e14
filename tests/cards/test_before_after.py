"""The picture of what was measured, and its words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from sith_hf.cards.before_after import (
    BASE,
    CONTROL,
    EDITED,
    LEFT,
    Part,
    Row,
    alt_text,
    before_after,
    parts_of,
)
from sith_hf.edits import EditEffect
from tests.cards import golden

EFFECT = EditEffect.from_data(golden.EFFECT, "the effect")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def widths(png: bytes, colour: str) -> list[int]:
    """The lengths of the bars of a colour, from the top."""
    same = (pixels(png) == ImageColor.getrgb(colour)).all(axis=-1)[:, LEFT - 100 :]
    found, last = [], 0
    for width in same.sum(axis=1).tolist():
        if width > 60 and not last:
            found.append(width)
        last = width > 60
    return found


def bars(*pairs: tuple[float, float], control: bool = False) -> Part:
    return Part("Results", tuple(Row(f"row {i}", *pair, "a", "b", control) for i, pair in enumerate(pairs)))


def test_it_is_made_of_what_was_measured():
    effect = EditEffect.from_data(golden.EFFECT, "the effect")
    results = [
        {"metric": "accuracy, group a/b", "base": 0, "edited": 0},
        {"metric": "worst group", "base": 0.5, "edited": 1},
    ]
    first, second = parts_of(effect, results)
    assert [row.name for row in first.rows] == ["sea", "road", "64 other concepts, median", "with random vectors"]
    assert [row.edited_text for row in first.rows] == ["25%", "-12%", "97%", "88%"]
    assert [row.control for row in first.rows] == [False, False, True, True]
    assert [row.name for row in second.rows] == ["worst group"]  # single groups are in the table
    assert second.title == "Measured results (1 of 2)"
    assert parts_of(None, []) == ()
    assert [row.name for row in parts_of(None, results[:1])[0].rows] == ["accuracy, group a/b"]


def test_its_words_have_every_figure():
    words = alt_text(
        parts_of(EditEffect.from_data(golden.EFFECT, "the effect"), [{"metric": "m", "base": 0.5, "edited": 1}])
    )
    for figure in ("sea 100% to 25%", "road 100% to -12%", "with random vectors 100% to 88%", "m 0.500 to 1.000"):
        assert figure in words


def test_bars_are_as_long_as_their_values():
    png = before_after([bars((0.5, 1.0), (1.0, 0.25))])
    assert png == before_after([bars((0.5, 1.0), (1.0, 0.25))])
    before, after = widths(png, BASE), widths(png, EDITED)
    assert before[0] == pytest.approx(before[1] / 2, abs=3)
    assert after[1] == pytest.approx(after[0] / 4, abs=3)
    assert before[1] == pytest.approx(after[0], abs=3)
    assert widths(png, CONTROL) == []
    assert len(widths(before_after([bars((1.0, 0.5), control=True)]), CONTROL)) == 1


@pytest.mark.parametrize("pair", [(0.0, 0.0), (-3.0, 5.0), (1.0, -2.0), (87.5, 12.5), (1e6, -1e6)])
def test_any_value_stays_inside(pair):
    image = pixels(before_after([bars(pair)]))
    assert image.shape[1] == 960
    assert (image[4:-4, -20:-4] == 255).all()


def test_a_name_of_ten_thousand_characters_is_cut():
    long = Part("Results", (Row("sea " * 2500, 0.5, 1.0, "0.500", "1.000"),))
    assert (pixels(before_after([long]))[:, 4:20] == 255).sum() > 0
    assert pixels(before_after([long])).shape == pixels(before_after([bars((0.5, 1.0))])).shape
