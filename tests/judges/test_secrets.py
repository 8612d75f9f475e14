"""The judge's token: which server gets it, and how it stays out of what is written."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from sith_hf.errors import InputError
from sith_hf.judges.secrets import SERVER_VARIABLE, TOKEN_VARIABLE, chat_url, check_encrypted, check_named, mask

URL = "https://judge.example/v1"
TOKEN = 'sk-se/cr+et"token'


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)


@pytest.mark.parametrize(
    "named",
    [
        URL,
        "https://judge.example",
        "https://JUDGE.example/v1/",
        "https://judge.example:443/v1",
        chat_url(URL),
        f" {URL}\n",
    ],
)
def test_the_server_that_the_user_names_is_allowed(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    check_named(URL, [named])
    monkeypatch.setenv(SERVER_VARIABLE, named)
    check_named(URL, [])
    with pytest.raises(InputError, match="allow it"):
        check_named("https://other.example/v1", [named])


@pytest.mark.parametrize(
    "named",
    [
        "http://judge.example/v1", "https://judge.example.evil/v1", "https://judge.example:8443/v1", "https://example/v1",
        "https://judge.example/alice/v1", "judge.example", "", "https://[",
    ],
)  # fmt: skip
def test_another_server_is_not(named: str) -> None:
    with pytest.raises(InputError, match=r"names the server https://judge\.example/v1 .*--base-url"):
        check_named(URL, [named])


def test_without_a_token_only_this_machine_is_allowed_unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = "http://127.0.0.1:8000/v1", "http://10.0.0.1:8000/v1"
    with pytest.raises(InputError):
        check_named(here, [])
    monkeypatch.delenv(TOKEN_VARIABLE)
    check_named(here, [])
    check_named("http://localhost:8000", [])
    for url in (there, URL, "http://localhost.evil.example", "http://127.0.0.1.evil.example"):
        with pytest.raises(InputError):
            check_named(url, [])


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "http://localhost:1",
        "http://127.0.0.1",
        "http://[::1]:8000",
        "http://192.168.1.5",
        "http://vllm:8000",
        "http://x.local",
    ],
)
def test_a_token_stays_on_the_local_network_or_is_encrypted(url: str) -> None:
    check_encrypted(url)
    with pytest.raises(InputError, match="unencrypted"):
        check_encrypted("http://judge.example/v1")


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8", "http://judge.example", "http://[2001:4860:4860::8888]", "http://127.0.0.1.nip.io"]
)
def test_beyond_it_http_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="https://"):
        check_encrypted(url)


@pytest.mark.parametrize(
    "echo",
    [TOKEN, json.dumps(TOKEN)[1:-1], json.dumps(TOKEN)[1:-1].replace("/", "\\/"), quote(TOKEN, safe=""), quote(TOKEN)],
)
def test_the_token_is_masked_however_it_is_escaped(echo: str) -> None:
    assert mask(f"a {echo}\nb") == "a <token>\nb"


def test_every_token_is_masked_and_no_short_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    assert mask(f"{TOKEN} hf_abcdefghij given-by-hand", "given-by-hand") == "<token> <token> <token>"
    monkeypatch.setenv(TOKEN_VARIABLE, "4")
    assert mask("Score: 4") == "Score: 4"
