"""The body of a chat server's response."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sith_hf.judges.response import DamagedAnswer, WebPage, error_text, read_answer


def body(content: Any, stop: str | None = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": stop}
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    ("content", "score"),
    [
        ("Score: 4", 4),
        (None, None),
        ("", None),
        ([{"type": "text", "text": "Score: 4"}], 4),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "5"}]}, {"type": "text", "text": "4"}], 4),
        ([{"type": "text", "text": "Score"}, {"type": "text", "text": ": 4"}], 4),
        ([{"type": "image_url", "image_url": "x"}], None),
        ([], None),
    ],
)
def test_the_content_may_be_text_parts_or_nothing(content: Any, score: int | None) -> None:
    found = read_answer(body(content, reasoning_content="Score: 2", reasoning="Score: 2"))
    assert found.score == score
    assert (found.fault is None) == bool(found.text)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"\xff", b"null", b"[]", b'{"choices": []}', b'{"choices": null}', b'{"choices": [1]}', body(4),
        body([4]), body([{"type": "text"}]), body([{"type": "text", "text": 4}]), body({"text": "4"}), b"[" * 100_000,
    ],
    ids=lambda raw: repr(raw[:60]),
)  # fmt: skip
def test_another_form_is_damaged(raw: bytes) -> None:
    with pytest.raises(DamagedAnswer):
        read_answer(raw)


def test_an_error_in_place_of_an_answer_is_quoted() -> None:
    with pytest.raises(DamagedAnswer, match="no credits"):
        read_answer(b'{"error": {"message": "no credits", "code": 402}}')


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>4", b"\n <html><body>4</body></html>", b"\xef\xbb\xbf<HTML>"])
def test_a_web_page_is_no_answer(page: bytes) -> None:
    with pytest.raises(WebPage):
        read_answer(page)
    assert error_text(page) == "a web page"


def test_a_refusal_is_no_score_and_is_shown() -> None:
    found = read_answer(body(None, refusal="I cannot rate this 4."))
    assert found.score is None
    assert found.fault is not None
    assert "I cannot rate this" in found.fault
    # The control: a refusal of null, as most answers have.
    assert read_answer(body("4", refusal=None)).score == 4


@pytest.mark.parametrize(
    ("content", "score"),
    [("Score: 4", None), ("4", None), ("<think>3, or", None), ("Score: 4 because most texts are pla", 4), ("", None)],
)
def test_of_a_cut_off_answer_the_last_word_does_not_count(content: str, score: int | None) -> None:
    found = read_answer(body(content, "length"))
    assert found.score == score
    assert found.fault is not None
    assert "max_tokens" in found.fault


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"error": {"message": "bad model"}}', "bad model"),
        (b'{"error": "bad model"}', "bad model"),
        (b'{"detail": "bad model"}', "bad model"),
        (b'{"detail": [{"loc": 1}]}', '{"detail": [{"loc": 1}]}'),
        (b"busy", "busy"),
        (b"", ""),
    ],
)
def test_errors_are_said_in_the_servers_words(raw: bytes, text: str) -> None:
    assert error_text(raw) == text
