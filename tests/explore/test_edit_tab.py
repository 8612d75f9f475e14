"""The tab Edit: what the page may send, texts of any origin, and uploads that are gone after use."""

import html
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image

from sith_hf.explore import build_app, launch
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.edit_tab import (
    _added,
    _basket_html,
    _compared,
    _list,
    _picture_html,
    _summary,
    _taken,
    _with_gain,
    _without,
)
from sith_hf.explore.edit_view import draft
from sith_hf.explore.picture_view import compare_picture, read_picture

pytest_plugins = ["tests.support.explored"]

HOSTILE = "<img src=x onerror=\"document.title='broken'\">'${1}{{7*7}}</output>"
BASKET = Basket((Item(0.0, concept=HOSTILE), Item(0.0, vector=(2, 1, 0))))


def event(**data):
    return SimpleNamespace(_data=data)


def escaped(page):
    """The page without its own tags: what is left of a text of a user."""
    return re.sub(r"</?[a-z0-9]+(\s+[a-z-]+(=\"[^\"<>]*\")?)*\s*>", "", page)


@pytest.mark.parametrize("part", ["_basket_html", "_summary"])
def test_concepts_are_escaped(with_model, part):
    page = {"_basket_html": _basket_html, "_summary": _summary}[part](with_model, BASKET)
    assert html.escape(HOSTILE, quote=False).split("&quot;")[0].split('"')[0] in page
    assert "<img" not in page
    assert "<" not in escaped(page)


def test_labels_are_escaped_and_the_picture_has_a_description(with_model, tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    picture = read_picture(with_model, tmp_path / "red.png")
    spec = draft(with_model, Basket(BASKET.items[1:])).edit.spec
    page = _picture_html(picture, compare_picture(with_model, spec, picture, (HOSTILE, "red")), spec)
    assert "onerror=&#34;" in page
    assert page.count("<img") == 1
    assert 'alt="Your picture. Base:' in page


def test_only_the_folder_of_an_upload_is_deleted(with_model, tmp_path, monkeypatch):
    """A program may name any path in Gradio's folder, even the folder itself."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder := tmp_path / "uploads"))
    (kept := folder / "of another" / "picture.png").parent.mkdir(parents=True)
    kept.write_bytes(b"a picture")
    for sent in (folder, folder / "none.png", folder / "of another" / "deeper" / "none.png"):
        assert "alert" in _taken(with_model, str(sent))[2]
        assert kept.exists()


@pytest.mark.parametrize("content", [b"words", None])
def test_an_upload_is_deleted_after_use(with_model, tmp_path, monkeypatch, content):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "abc" / "picture.png"
    path.parent.mkdir()
    Image.new("RGB", (16, 16)).save(path)
    if content is not None:
        path.write_bytes(content)
    upload, picture, shown, _ = _taken(with_model, str(path))
    assert upload is None
    assert (picture is None) == (content is not None)
    assert ("alert" in str(shown)) == (content is not None)
    assert not list(tmp_path.iterdir())


def test_gains_and_removals_change_the_basket_of_this_window_alone():
    key = BASKET.items[1].key
    moved = _with_gain(BASKET, event(action="gain", key=key, value="1.25"))
    assert moved.items[1].gain == 1.25
    assert BASKET.items[1].gain == 0.0
    assert _without(moved, event(action="remove", key=key)).items == BASKET.items[:1]
    assert _without(moved, event(action="clear")) == Basket()


@pytest.mark.parametrize(
    "data", [{}, {"key": "vector:9,9,9", "value": "1"}, {"key": "vector:2,1,0", "value": "nan"}, {"key": 1, "value": 2}]
)
def test_gains_that_no_slider_sends_change_nothing(data):
    assert _with_gain(BASKET, event(**data)) == BASKET


def test_a_blank_or_long_concept_has_its_message_and_a_good_one_is_added():
    for text in (" ", "x" * 10_000):
        _, basket, said = _added(text, BASKET)
        assert basket == BASKET
        assert 'role="alert"' in said
    assert _added(" sea ", Basket()) == ("", Basket((Item(0.0, concept="sea"),)), "")


def test_a_slider_that_moves_is_not_drawn_again(with_model):
    shown, keys = _list(with_model, BASKET, ())
    assert shown.count('type="range"') == 2
    moved = BASKET.with_gain(keys[1], 2.0)
    assert _list(with_model, moved, keys) != (_basket_html(with_model, moved), keys)
    assert _list(with_model, moved, ())[1] == keys


def test_errors_have_their_message_in_the_page(with_model, without_model):
    assert 'role="alert"' in list(_compared(with_model, Basket(), None, "boat"))[-1][0]
    other = list(_compared(without_model, Basket(), None, "boat, bird"))[-1][0]
    assert "--model" in other


def test_the_page_has_the_pictures_only_with_a_model(with_model, without_model):
    parts = [str(build_app(explorer).get_config_file()["components"]) for explorer in (with_model, without_model)]
    assert "Your picture (it is not kept)" in parts[0]
    assert "Your picture (it is not kept)" not in parts[1]
    assert "Pictures need the model" in parts[1]


def test_nothing_is_left_when_the_app_closes(without_model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with launch(without_model, port=port, wait=False) as served:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        sent = httpx.post(f"{served.url}/gradio_api/upload", files={"files": ("picture.png", b"a picture")})
        assert Path(sent.json()[0]).is_relative_to(folder)
        assert Path(sent.json()[0]).read_bytes() == b"a picture"
    assert not folder.exists()
