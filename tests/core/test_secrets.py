"""Tokens are found in any bytes, in any encoding and wherever a piece ends; words like them are not."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import numpy as np
import pytest

from sith_hf.core.secrets import JUDGE_TOKEN, TOKEN_VARIABLES, find_token, known_tokens, mask

TOKEN = "hf_" + "aB3dE" * 7
JUDGE = "judge-secret-1234567"
ESCAPED = 'sk-se/cr+et"token'
FORMS = {
    "plain": str.encode,
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be": lambda text: text.encode("utf-16-be"),
    "utf-32-be": lambda text: text.encode("utf-32-be"),
}
# Far more than a piece that is searched at once.
NOISE = np.random.default_rng(0).standard_normal(3 * 2**19, dtype=np.float32).tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [0, 2**22 - 20, 2**22 - 1, 2**22 - 600, 2**22 + 3])
def test_a_token_is_found_anywhere(form, at):
    for text, known in ((TOKEN, {}), (JUDGE, {"SITH_HF_JUDGE_TOKEN": JUDGE})):
        start, end = NOISE[:at] + b"\0\0\0\0", NOISE[:999]
        data = start + FORMS[form](f" {text}\n") + end
        assert find_token([data], known) is not None
        assert find_token([data[: at + 9], data[at + 9 : at + 10], data[at + 10 :]], known) is not None
        assert find_token([start + FORMS[form](f" {text[:9]}\n") + end], known) is None  # the control


@pytest.mark.parametrize("before", ["", "x", "user:"])
def test_a_known_token_is_found_in_base64(before):
    coded = base64.b64encode(f"{before}{JUDGE} and more".encode())
    assert find_token([coded], {"HF_TOKEN": JUDGE}) == "the value of HF_TOKEN"
    assert find_token([coded], {"HF_TOKEN": "judge-secret-9234567"}) is None


@pytest.mark.parametrize(
    "text",
    [
        "hf_short",
        "my_hf_" + "a" * 30,
        "sith_hf_something_long_enough",
        "hf-" + "a" * 30,
        "x" * (2**22 - 512) + "y_hf_" + "a" * 600,
    ],
)
def test_words_that_are_no_tokens(text):
    assert find_token([text.encode()], {}) is None
    assert find_token([text.encode("utf-16")], {}) is None


EXAMPLES = [
    "hf_" + "x" * 34,
    "hf_" + "X" * 20,
    "hf_YourTokenHere12345",
    "hf_YOURHUGGINGFACETOKEN",
    "api_org_" + "x" * 34,
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_stands_for_a_token_is_none_unless_it_is_in_use(text):
    for coded in (text.encode(), text.encode("utf-16"), NOISE[: 2**22 - 9] + b" " + text.encode()):
        assert find_token([coded], {}) is None
        # The control: a token behind it.
        assert find_token([coded + b" \0 " + TOKEN.encode()], {}) == "a token of the Hub"
    assert find_token([text.encode()], {"HF_TOKEN": text}) == "the value of HF_TOKEN"


@pytest.mark.parametrize(
    "text", ["hf_" + "a" * 34, "hf_" + "x" * 33 + "y", "hf_abcdefghijklmnopqrst", "hf_notYourTokenBut12"]
)
def test_other_simple_letters_may_be_a_token(text):
    assert find_token([text.encode()], {}) == "a token of the Hub"


def test_short_values_are_words():
    assert find_token([b"none of them"], {"SITH_HF_JUDGE_TOKEN": "none"}) is None


def test_no_answer_shows_the_token():
    for known in ({}, {"the token in use": TOKEN}):
        assert TOKEN not in str(find_token([TOKEN.encode()], known))


def test_the_tokens_in_use(monkeypatch):
    for number, name in enumerate(TOKEN_VARIABLES):
        monkeypatch.setenv(name, f" value-number-{number}\n")
    found = known_tokens("value-given")
    assert {"value-given", *(f"value-number-{n}" for n in range(len(TOKEN_VARIABLES)))} <= set(found.values())
    assert mask("a value-number-2 b\nvalue-given", "value-given") == "a <token> b\n<token>"
    assert mask("a value-number-9") == "a value-number-9"


@pytest.mark.parametrize(
    "echo",
    [
        ESCAPED,
        json.dumps(ESCAPED)[1:-1],
        json.dumps(ESCAPED)[1:-1].replace("/", "\\/"),
        quote(ESCAPED, safe=""),
        quote(ESCAPED),
    ],
)
def test_the_token_is_masked_however_it_is_escaped(monkeypatch, echo):
    monkeypatch.setenv(JUDGE_TOKEN, ESCAPED)
    assert mask(f"a {echo}\nb") == "a <token>\nb"


def test_every_token_is_masked_and_no_short_word(monkeypatch):
    monkeypatch.setenv(JUDGE_TOKEN, ESCAPED)
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    assert mask(f"{ESCAPED} hf_abcdefghij given-by-hand", "given-by-hand") == "<token> <token> <token>"
    monkeypatch.setenv(JUDGE_TOKEN, "4")
    assert mask("Score: 4") == "Score: 4"
