"""The style of pictures: contrasts, colours for any kind of colour vision, frames, and that bytes repeat."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from sith_hf import charts
from sith_hf.charts import EDGE, FAINT, FRAME, INK, LOWERS, PAPER, RAISES, SERIES

# Linear RGB as seen by readers without red, green or blue cones (Machado et al., 2009), and by all others.
SEEN_BY = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(colour: str) -> np.ndarray:
    part = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def contrast(one: str, two: str) -> float:
    """The contrast ratio of WCAG 2."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, two))
    return (high + 0.05) / (low + 0.05)


def lab(light: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(light, 0, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest(colours: tuple[str, ...]) -> float:
    """The smallest distance in Lab of any two colours, for any reader."""
    return min(
        float(np.linalg.norm(lab(seen @ linear(one)) - lab(seen @ linear(two))))
        for seen in map(np.array, SEEN_BY.values())
        for one, two in combinations(colours, 2)
    )


def test_texts_and_lines_stand_out_from_the_paper():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert all(contrast(colour, PAPER) >= 4.5 for colour in (INK, FAINT, *SERIES))
    assert all(contrast(colour, PAPER) >= 3 for colour in (RAISES, LOWERS, EDGE))
    assert contrast("#e69f00", PAPER) < 3  # the control: a usual orange is too light


def test_any_reader_can_tell_the_series_apart():
    assert closest(SERIES) >= 20
    assert closest(("#009e73", "#cc79a7", "#d55e00")) < 20  # the control


def test_pictures_are_opaque_framed_sheets():
    with charts.blank_figure() as figure:
        figure.subplots().plot([1, 2])
        drawn = Image.open(io.BytesIO(charts.figure_bytes(figure)))
    sheet = Image.open(io.BytesIO(charts.sheet_bytes(charts.new_sheet(60, 40))))
    for picture in (drawn, sheet):
        pixels = np.asarray(picture.convert("RGBA"))
        assert (pixels[..., 3] == 255).all()
        assert "#{:02x}{:02x}{:02x}".format(*pixels[6, 6, :3]) == PAPER
        corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3].astype(int)
        assert np.abs(corners - [int(FRAME[i : i + 2], 16) for i in (1, 3, 5)]).max() < 8
        assert not set(picture.info) & {"Software", "date:create"}


def test_the_settings_of_the_user_neither_matter_nor_change(monkeypatch):
    import matplotlib

    def drawn() -> bytes:
        with charts.blank_figure() as figure:
            axes = figure.subplots()
            axes.plot([1, 2], [3, 4])
            charts.dress(axes, title="A title", x="x", y="y, %")
            return charts.figure_bytes(figure)

    plain = drawn()
    theirs = {"axes.facecolor": "black", "font.size": 30, "savefig.dpi": 20, "savefig.facecolor": "red"}
    with matplotlib.rc_context(theirs):
        assert drawn() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_texts_fit_their_width():
    assert charts.fitted("sea", 100, 15) == "sea"
    for text in ("m" * 1000, "a\nb\x1b[31m" * 50, "海" * 300, "\u202e" * 50):
        found = charts.fitted(text, 120, 15)
        assert charts.font(15).getlength(found) <= 120
        assert "\n" not in found
        assert found.endswith("…")
