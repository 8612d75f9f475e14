"""Pixels are taken for what their values are: the right answer is the picture that was stored."""

from __future__ import annotations

import io
import os
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from sith_hf.images import DatasetSettings
from sith_hf.images.datasets import open_dataset
from sith_hf.images.decode import decode_image
from sith_hf.images.pixels import BrokenImage, image_of

Y, X = np.mgrid[0:24, 0:32]
COLOURS = np.stack([X * 7, Y * 10, X + Y], axis=-1).clip(0, 255).astype(np.uint8)
COLOURS[2:8, 2:12] = [255, 0, 0]
GREY = np.asarray(Image.fromarray(COLOURS).convert("L"))
MASK = GREY > 60

SAME = {
    "bytes": COLOURS,
    "bytes as int64": COLOURS.astype(np.int64),
    "bytes as int32": COLOURS.astype(np.int32),
    "bytes as float32": COLOURS.astype(np.float32),
    "bytes as float64": np.clip(COLOURS + 0.2, 0, 255),
    "fractions, float32": COLOURS.astype(np.float32) / 255,
    "fractions, float64": COLOURS / 255,
    "fractions, float16": (COLOURS / 255).astype(np.float16),
    "16 bits": COLOURS.astype(np.uint16) * 257,
    "16 bits as int32": COLOURS.astype(np.int32) * 257,
    "16 bits as int64": COLOURS.astype(np.int64) * 257,
    "channels first": COLOURS.transpose(2, 0, 1),
    "channels first, fractions": COLOURS.transpose(2, 0, 1) / 255,
    "a batch of one": COLOURS[None],
    "a batch of one, channels first": COLOURS.transpose(2, 0, 1)[None],
    "with alpha": np.dstack([COLOURS, np.full((24, 32), 9, np.uint8)]),
    "lists": COLOURS.tolist(),
    "lists of fractions": (COLOURS / 255).tolist(),
    "a list of one": [COLOURS.tolist()],
    "in Fortran order": np.asfortranarray(COLOURS),
    "big-endian": COLOURS.astype(">u2") * 257,
}
SAME_GREY = {
    "two axes": GREY,
    "one channel": GREY[..., None],
    "one channel first": GREY[None],
    "grey fractions": GREY[..., None] / 255,
    "grey with alpha": np.dstack([GREY, GREY]),
    "grey of 16 bits": GREY.astype(np.uint16) * 257,
}


def pixels(value):
    return np.asarray(decode_image(value))


@pytest.mark.parametrize("value", SAME.values(), ids=SAME)
def test_colours(value):
    np.testing.assert_array_equal(pixels(value), COLOURS)


@pytest.mark.parametrize("value", SAME_GREY.values(), ids=SAME_GREY)
def test_greys(value):
    np.testing.assert_array_equal(pixels(value), np.dstack([GREY] * 3))


def test_black_and_white():
    expected = np.dstack([MASK * np.uint8(255)] * 3)
    np.testing.assert_array_equal(pixels(MASK), expected)
    np.testing.assert_array_equal(pixels(MASK.tolist()), expected)


@pytest.mark.parametrize(("number", "seen"), [(0.0, 0), (0.5, 128), (1.0, 255), (1.5, 2), (255.0, 255)])
def test_constant_pictures(number, seen):
    assert set(pixels(np.full((4, 5), number)).flat) == {seen}


def test_a_dark_picture_of_16_bits_stays_dark():
    dark = np.full((4, 5), 200, np.uint16)
    assert set(pixels(dark).flat) == {1}
    assert set(pixels(dark.astype(np.int32)).flat) == {200}  # the control: without the dtype these are bytes


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.where(MASK, np.nan, 0.5), "NaN or infinite"),
        (np.where(MASK, np.inf, 0.5), "NaN or infinite"),
        (GREY / 127.5 - 1, "negative pixels"),
        (GREY.astype(np.int16) - 1, "negative pixels"),
        (GREY.astype(np.float32) * 257, "above 255"),
        (GREY.astype(np.int64) * 257 * 257, "above 65535"),
        (np.zeros((3, 8, 4), np.uint8), "first or the last axis"),
        (np.zeros((4, 8, 1), np.uint8), "first or the last axis"),
        (np.zeros((8, 8, 5), np.uint8), "without an axis of 1, 3 or 4"),
        (np.zeros((2, 8, 8), np.uint8), "without an axis of 1, 3 or 4"),
        (np.zeros((2, 8, 8, 3), np.uint8), "a list of images"),
        (np.zeros(64, np.uint8), "flat list"),
        ([0, 1, 2], "flat list"),
        (np.zeros((0, 4)), "without pixels"),
        ([[]], "no image"),
        ([[1, 2], [3]], "different lengths"),
        ([[1, None], [2, 3]], "other values than numbers"),
        ([["a", "b"], ["c", "d"]], "a list of images|other values"),
        (np.zeros((4, 4), complex), "other values than numbers"),
        (np.zeros((10_000, 9_000), bool), "too many pixels"),
        ([COLOURS.tobytes(), COLOURS.tobytes()], "a list of images"),
        ([{"bytes": b"a", "path": None}, None], "a list of images"),
        (["/etc/passwd"], "a text where an image should be"),
        ([["/etc/passwd"]], "a text where an image should be"),
        ("/etc/passwd", "a text where an image should be"),
        ({"file": "a.png"}, "a mapping without bytes or path"),
        ([], "no image"),
        ([None], "no image"),
        (b"", "no image"),
        (7, "a int where an image should be"),
    ],
)
def test_what_has_no_one_meaning_has_its_reason(value, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode_image(value)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (GREY.astype(np.int32), "TIFF"),
        (GREY.astype(np.int32) * 257, "TIFF"),
        (GREY.astype(np.uint16) * 257, "TIFF"),
        (GREY.astype(np.uint16) * 257, "PNG"),
        (GREY.astype(np.float32) / 255, "TIFF"),
        (GREY.astype(np.float32), "TIFF"),
    ],
)
def test_files_of_more_bits(array, kind):
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(array), kind)), np.dstack([GREY] * 3))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (GREY.astype(np.int32) * 2**20, "above 65535"),
        (GREY.astype(np.int32) - 9, "negative"),
        (np.where(MASK, np.nan, 1).astype(np.float32), "NaN"),
        (GREY.astype(np.float32) * 100, "above 255"),
    ],
)
def test_files_of_more_bits_that_have_no_one_meaning(array, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode_image(saved(Image.fromarray(array), "TIFF"))


def test_colours_that_pillow_does_not_convert():
    with pytest.raises(BrokenImage, match=r"does not convert \(La\)"):
        decode_image(Image.new("La", (9, 9)))


def test_the_first_frame_of_several():
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime")]
    assert decode_image(saved(frames[0], "GIF", save_all=True, append_images=frames[1:])).getpixel((0, 0)) == (
        255,
        0,
        0,
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_files_that_never_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(2**40)
    for path in (str(tmp_path / "pipe.png"), "/dev/zero", "file:///dev/zero", str(tmp_path / "big.png")):
        with pytest.raises(BrokenImage, match=r"a file that cannot be read \((not a regular|more than)"):
            decode_image({"bytes": None, "path": path})


FEATURES = {
    "uint8": (datasets.Array3D((24, 32, 3), "uint8"), COLOURS),
    "float32": (datasets.Array3D((24, 32, 3), "float32"), COLOURS / 255),
    "uint16": (datasets.Array3D((24, 32, 3), "uint16"), COLOURS.astype(int) * 257),
    "channels first": (datasets.Array3D((3, 24, 32), "float64"), COLOURS.transpose(2, 0, 1) / 255),
    "lists": (None, COLOURS / 255),
    "lists of int16": (datasets.List(datasets.List(datasets.List(datasets.Value("int16")))), COLOURS),
    "a list of one image": (datasets.List(datasets.Image()), [{"bytes": saved(Image.fromarray(COLOURS), "PNG")}]),
    "an image": (datasets.Image(), {"bytes": saved(Image.fromarray(COLOURS), "PNG"), "path": None}),
    "bytes": (datasets.Value("binary"), saved(Image.fromarray(COLOURS), "PNG")),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("feature", "value"), FEATURES.values(), ids=FEATURES)
def test_columns_of_a_dataset(feature, value, streaming, tmp_path):
    value = value.tolist() if isinstance(value, np.ndarray) else value
    features = None if feature is None else datasets.Features({"image": feature})
    datasets.Dataset.from_dict({"image": [value, value]}, features=features).to_parquet(tmp_path / "a.parquet")
    source = open_dataset(DatasetSettings(dataset=str(tmp_path / "a.parquet"), streaming=streaming))
    rows = list(source.read([], ["image"]))
    assert len(rows) == 2
    for row in rows:
        np.testing.assert_array_equal(pixels(row["image"]), COLOURS)


def test_a_dark_row_has_the_scale_of_its_column(tmp_path):
    feature = datasets.Array2D((4, 5), "uint16")
    rows = datasets.Dataset.from_dict(
        {"image": np.full((2, 4, 5), 200).tolist()}, features=datasets.Features({"image": feature})
    )
    rows.save_to_disk(tmp_path / "d")
    for row in open_dataset(DatasetSettings(dataset=str(tmp_path / "d"))).read([], ["image"]):
        assert set(pixels(row["image"]).flat) == {1}


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 3, 3), (4, 4, 3), (1, 9, 4), (3, 9, 3)])
def test_small_pictures_have_their_channels_last(shape):
    assert image_of(np.zeros(shape, np.uint8)).size == shape[1::-1]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("foo://a/b.png", "cannot be read"),
        ("zip://a.png::/no/such.zip", "file not found"),
        ("/no/such.png", "file not found"),
        ("a\0b", "cannot be read"),
        ("/", "Is a directory"),
    ],
)
def test_files_that_are_not_there(path, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode_image({"bytes": None, "path": path})


def test_a_package_that_a_file_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(BrokenImage, match="needs the package"):
        decode_image({"bytes": None, "path": "s3://bucket/a.png"})


def test_pictures_of_phones_are_named():
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"x" * 200
    with pytest.raises(BrokenImage, match="HEIC"):
        decode_image(heic)
    with pytest.raises(BrokenImage, match="unknown format"):
        decode_image(heic.replace(b"heic", b"isom"))
