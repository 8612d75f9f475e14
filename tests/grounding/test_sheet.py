"""Contact sheets: poles differ, overlays show where, words fit and are marked, and there may be many."""

import io
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from sith_hf.charts import FAINT, INK
from sith_hf.decomposition import Explanation
from sith_hf.grounding.agreement import Agreement
from sith_hf.grounding.pole import GroundedImage, GroundedPole
from sith_hf.grounding.sheet import overlay, sheets

ROW = 260


def picture(red):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (red, 40, 200)).save(file, format="PNG")
    return file.getvalue()


PICTURES = {number: picture(10 * number) for number in range(24)}


def pole(sign="+", words=("sea", "boat"), first=0, **changes):
    patches = torch.tensor([[1.0, 0.0], [-0.5, 0.0]])
    images = tuple(GroundedImage(n, "", 2.0, 0.1, patches, 0.5) for n in range(first, first + 8))
    explanation = Explanation(3, 1, 0, sign, tuple((w, 0.5) for w in words), 1.0, 0.1, 0.5, 0.9, 0.5)
    made = GroundedPole(
        3, 1, 0, sign, "class token", 0.6, images,
        tuple(GroundedImage(n, "", 0.1) for n in range(16, 24)), explanation, True, Agreement(0.9, 0.001, 8, 50),
    )  # fmt: skip
    return replace(made, **changes)


def drawn(*poles):
    return [np.asarray(sheet).astype(int) for sheet in sheets(poles, PICTURES, "a model on 50 images", {})]


def inked(pixels, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(axis=-1) < 12).sum())


def test_poles_have_their_own_words_and_images():
    (same,) = drawn(pole(), pole())
    first, second = same[92 : 92 + ROW - 14], same[92 + ROW : 92 + 2 * ROW - 14]
    assert (first == second).all(), "the same pole looks the same"
    (other,) = drawn(pole(), pole(words=("road", "car"), first=8))
    first, second = other[92 : 92 + ROW - 14], other[92 + ROW : 92 + 2 * ROW - 14]
    assert (first != second)[:, :340].any(), "other words"
    assert (first != second)[:, 360:].any(), "other images"


def test_the_opposite_pole_has_the_opposite_colours():
    (plus,), (minus,) = drawn(pole("+")), drawn(pole("-"))
    below = slice(92 + 118, 92 + 118 + 112), slice(350, 350 + 112)
    warm = [(each[below][..., 0] - each[below][..., 2])[:20, :20].mean() for each in (plus, minus)]
    assert warm[0] > 100 > -100 > warm[1]


def test_an_overlay_is_warm_where_a_patch_raises_and_cold_where_it_lowers():
    picture = Image.new("RGB", (64, 64), (120, 120, 120))
    patches = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    pixels = np.asarray(overlay(picture, patches, 2.0)).astype(int)
    warmth = pixels[..., 0] - pixels[..., 2]
    assert warmth[4, 4] > 100
    assert warmth[60, 4] < -100
    assert abs(warmth[4, 60]) < 5
    weak = np.asarray(overlay(picture, patches, 20.0)).astype(int)
    assert abs(weak[4, 4, 0] - weak[4, 4, 2]) < 40, "relative to the scale"
    assert np.ptp(np.asarray(overlay(picture, torch.zeros(2, 2), 0.0))) == 0


def test_words_no_better_than_chance_are_grey():
    (sure,), (silent,) = drawn(pole()), drawn(pole(beyond_chance=False))
    area = slice(92 + 36, 92 + 62), slice(20, 340)  # the line of words
    assert inked(sure[area], INK) > 20
    assert inked(silent[area], INK) == 0
    assert inked(silent[area], FAINT) > 20
    assert pole(beyond_chance=False).words.endswith("(chance)")
    assert not pole(beyond_chance=None).words.endswith("(chance)")


def test_long_and_hostile_words_stay_beside_the_images():
    words = ("\x1b[31m\u202e" + "w" * 200, *(f"word {n} of many" for n in range(30)), "")
    (long,), (short,) = drawn(pole(words=words)), drawn(pole())
    assert (long[:, 350:] == short[:, 350:]).all()
    assert (long[92:, :340] != short[92:, :340]).any()


def test_without_words_parts_or_random_images():
    bare = pole(explanation=None, agreement=None, random=(), beyond_chance=None,
                images=(GroundedImage(1, "", 2.0),))  # fmt: skip
    (pixels,) = drawn(bare)
    assert bare.words == ""
    assert (pixels[92 + 118 : 92 + 230, 350:-2] == 255).all(), "no overlay, no random image"
    assert (pixels[92 : 92 + 112, 350:462] != 255).any()


def test_many_poles_get_several_sheets():
    found = drawn(*[pole()] * 41)
    assert len(found) == 3
    assert [len(pixels) for pixels in found] == [92 + ROW * 20 + 20, 92 + ROW * 20 + 20, 92 + ROW + 20]
