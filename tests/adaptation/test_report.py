"""The report and the heat map: hostile names and words are escaped, and equal data give equal bytes."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest
from PIL import Image

from sith_hf.adaptation import Adaptation, ChangeWords, HeadChange, heat_map, report
from sith_hf.decomposition import Explanation
from sith_hf.errors import MissingExtra
from tests.support.cli import HOSTILE

NONE = {"reweighting": 0.0, "rotation": 0.0, "new": 0.0, "write_angles": (0.0,), "read_angles": (0.0,)}
SOME = {"reweighting": 0.5, "rotation": 0.25, "new": 0.25, "write_angles": (1.0, 20.0), "read_angles": (3.0, 4.0)}


def head(layer, number, change):
    parts = SOME if change else NONE
    directions = (0.9, 0.1) if change else ()
    return HeadChange(
        layer, number, 2.0, change, 1e-6, leading=len(parts["write_angles"]), directions=directions, **parts
    )


def words(text, q):
    pole = Explanation(1, 0, 0, "+", ((text, 0.5),), 1.0, 0.9, 0.4, 0.8, 1.0, q)
    return ChangeWords((pole, replace(pole, pole="-", concepts=(("silent", 0.5),))), (q, 1.0), 0.9)


def made(*texts, heads=None):
    heads = heads or (head(0, 0, 0.0), head(0, 1, 0.5), head(1, 0, 1.0), head(1, 1, 0.0))
    return Adaptation(heads, "vision", "clip", {}, 0.03, tuple(words(text, 0.01) for text in texts))


class TestNumbers:
    def test_energies_add_up(self):
        found = made()
        assert [(h.layer, h.head) for h in found.changed] == [(1, 0), (0, 1)]
        data = found.to_json()
        assert data["change"] == pytest.approx(math.sqrt(1.25 / 16))
        assert (data["reweighting"], data["rotation"], data["new"]) == pytest.approx((0.5, 0.25, 0.25))
        assert [layer["change"] for layer in data["layers"]] == pytest.approx([0.5 / math.sqrt(8), 1 / math.sqrt(8)])
        assert json.loads(json.dumps(data, allow_nan=False)) == data

    def test_silent_poles_are_counted_and_not_shown(self):
        found = made("sea", "road")
        assert found.silent() == (2, 4)
        assert [row[-1] for row in found.word_rows(9)[1]] == ["sea 0.50", "road 0.50"]


class TestReport:
    def test_what_it_says(self):
        text = report(made("sea"), "clip", "clip-tuned", picture="heat_map.png")
        assert "# What fine-tuning changed: clip-tuned against clip" in text
        assert "![The change of each head by layer and head, and its parts](heat_map.png)" in text
        assert "| 1 | 0 | 0.500 | 0.800 | 0.500 | 0.250 | 0.250 | 2 | 20.000 | 4.000 |" in text
        assert "sea 0.50" in text
        assert "silent 0.50" not in text
        assert "1 of the 2 poles has no words" in " ".join(text.split())
        assert "/" not in report(made("sea"), "/home/me/clip", "/home/me/tuned").split("Compared")[0]

    def test_every_table_has_its_lines(self):
        lines = report(made("sea"), "a", "b").split("\n")
        starts = [i for i, line in enumerate(lines) if line.startswith("|--")]
        assert len(starts) == 3
        for start in starts:
            assert lines[start - 2] == ""
            assert lines[start - 1].count("|") == lines[start].count("|") == lines[start + 1].count("|")

    def test_no_change(self):
        text = report(made(heads=(head(0, 0, 0.0),)), "a", "b")
        assert "No head changed by more than the rounding of its weights." in text

    @pytest.mark.parametrize("text", HOSTILE)
    def test_hostile_texts_are_escaped(self, text):
        found = report(made(text), text, text)
        assert text not in found
        assert not set(found) & {"\x1b", "\x07", "\u202e", "\u200b"}
        assert "<b>" not in found


class TestHeatMap:
    def test_equal_data_give_equal_bytes(self, tmp_path):
        first, second = (heat_map(made(), tmp_path / f"{name}.png").read_bytes() for name in "ab")
        assert first == second
        assert heat_map(made(heads=(head(0, 0, 0.0), head(0, 1, 0.7))), tmp_path / "c.png").read_bytes() != first
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.width > picture.height > 100

    def test_no_change_and_a_base_of_zeros(self, tmp_path):
        for heads in ((head(0, 0, 0.0),), (replace(head(0, 0, 1.0), base_norm=0.0),)):
            assert heat_map(made(heads=heads), tmp_path / "a.png").is_file()

    def test_without_matplotlib(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(MissingExtra, match="plot"):
            heat_map(made(), tmp_path / "a.png")
        assert not list(tmp_path.iterdir())
