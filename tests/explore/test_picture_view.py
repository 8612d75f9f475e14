"""Pictures before and after: probabilities of the model itself, files that are no picture, and shared weights."""

import io
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPModel

from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.errors import InputError
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.edit_view import draft
from sith_hf.explore.html import render
from sith_hf.explore.picture_view import (
    GRID,
    compare_grid,
    compare_picture,
    read_labels,
    read_picture,
)
from sith_hf.explore.where_view import MOST_VECTORS, where_in
from sith_hf.grounding import reading_coefficients, token_parts

pytest_plugins = ["tests.support.explored"]

LABELS = ("red", "a boat", "blue")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def found(with_model):
    return draft(with_model, Basket((Item(-1.0, vector=(2, 1, 0)), Item(3.0, vector=(1, 0, 0)))))


def of_transformers(model, base, file, labels):
    processor = AutoProcessor.from_pretrained(base)
    prompts = [f"a photo of a {label}" for label in labels]
    inputs = processor(text=prompts, images=Image.open(file), return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(**inputs).logits_per_image.softmax(-1)[0].tolist()


def test_probabilities_are_those_of_transformers(with_model, found, file):
    spec = found.edit.spec
    view = compare_picture(with_model, spec, read_picture(with_model, file), LABELS)
    model = CLIPModel.from_pretrained(with_model.model)
    base = of_transformers(model, with_model.model, file, LABELS)
    with with_model.editor.applied(spec) as edited:
        after = of_transformers(edited, with_model.model, file, LABELS)
    assert [row.base for row in view.rows] == pytest.approx(base, abs=1e-5)
    assert [row.edited for row in view.rows] == pytest.approx(after, abs=1e-5)
    assert [row.base for row in view.rows] != pytest.approx(after, abs=1e-4)
    assert view.one_of
    assert view.moved > 0


def test_without_an_edit_nothing_moves(with_model, file):
    view = compare_picture(with_model, None, read_picture(with_model, file), LABELS)
    assert all(row.base == row.edited for row in view.rows)
    assert (view.moved, view.changed) == (pytest.approx(0, abs=1e-6), False)


def test_the_shared_weights_do_not_change_while_an_edit_is_shown(with_model, found, file, monkeypatch):
    model = with_model.editor.model
    before = {name: tensor_sha256(value) for name, value in model.state_dict().items()}
    seen = []
    forward = type(model.vision_model).forward

    def watched(self, *inputs, **options):
        seen.append(all(tensor_sha256(value) == before[name] for name, value in model.state_dict().items()))
        return forward(self, *inputs, **options)

    monkeypatch.setattr(type(model.vision_model), "forward", watched)
    picture = read_picture(with_model, file)
    compare_picture(with_model, found.edit.spec, picture, LABELS)
    where_in(with_model, found.gains, picture)
    assert len(seen) > 2
    assert all(seen)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_grid_shows_drawn_pictures_and_counts_changes(with_model, found):
    grid = compare_grid(with_model, found.edit.spec, LABELS)
    assert len(grid.pictures) == GRID
    assert grid.changed == sum(each.view.base != each.view.edited for each in grid.pictures)
    html = render("grid.html.j2", view=grid, edited=True)
    assert html.count("<small>changed</small>") == grid.changed
    assert html.count("data:image/png;base64,") == GRID


def test_the_grid_shows_the_images_of_the_user(with_model, found, file):
    grid = compare_grid(replace(with_model, images=str(file.parent)), None, LABELS)
    assert len(grid.pictures) == 1
    assert grid.pictures[0].shown == read_picture(with_model, file).shown


def test_the_place_is_where_the_strongest_vectors_read(with_model, found, file):
    picture = read_picture(with_model, file)
    view = where_in(with_model, found.gains, picture)
    model, tower, decomposition = with_model.editor.model, with_model.editor.tower, with_model.decomposition
    pixels, embed = picture.pixels[None], lambda each: model.get_image_features(pixel_values=each)
    change = {key: abs(gain - 1) for key, gain in found.gains.gain.items()}
    with torch.no_grad(), reading_coefficients(model, tower, decomposition, list(change)) as reader:
        embed(pixels)
        written = dict(zip(change, reader.take()[0].abs().tolist(), strict=True))
    assert list(view.vectors) == sorted(change, key=lambda key: -change[key] * written[key])[:MOST_VECTORS]
    parts = [
        change[key] * token_parts(model, tower, decomposition, key, pixels, embed).patches[0].abs() for key in change
    ]
    total = sum(parts)
    assert view.share == pytest.approx(float(total.max() / total.sum()), rel=1e-4)
    assert view.place in ("upper left", "upper right", "middle left", "middle right", "lower left", "lower right")
    assert Image.open(io.BytesIO(view.shown)).size == (224, 224)


def test_nothing_edited_has_no_place(with_model, file):
    with pytest.raises(InputError, match="nothing is edited"):
        where_in(with_model, draft(with_model, Basket()).gains, read_picture(with_model, file))


def huge_png():
    """A PNG that claims 100 megapixels, in a few bytes."""
    chunks = {b"IHDR": (10_000).to_bytes(4) * 2 + b"\x08\x02\x00\x00\x00", b"IDAT": zlib.compress(b"")}
    parts = [len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def truncated_jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "JPEG")
    return buffer.getvalue()[:300]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"these are words", "not an image"),
        (b"", "no image"),
        (huge_png(), "too many pixels"),
        (truncated_jpeg(), "damaged or truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not an image"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_in_one_sentence(with_model, tmp_path, content, said):
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_picture(with_model, path)
    assert "choose another picture" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_an_upload_that_is_gone_is_refused(with_model, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_picture(with_model, tmp_path / "nothing.png")


def test_labels_are_separated_by_commas_and_lines():
    assert read_labels(" boat, bird ,,boat\nred fish") == ("boat", "bird", "red fish")


@pytest.mark.parametrize("text", ["", "boat", "boat,boat", ",".join(map(str, range(51))), f"boat,{'x' * 201}"])
def test_too_few_too_many_or_too_long_labels_are_refused(text):
    with pytest.raises(InputError, match="label"):
        read_labels(text)
