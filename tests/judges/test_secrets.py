"""The judge's token: which server gets it."""

from __future__ import annotations

import pytest

from sith_hf.core.secrets import JUDGE_TOKEN
from sith_hf.errors import InputError
from sith_hf.judges.secrets import SERVER_VARIABLE, chat_url, check_encrypted, check_named

URL = "https://judge.example/v1"
TOKEN = 'sk-se/cr+et"token'


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JUDGE_TOKEN, TOKEN)
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
    monkeypatch.delenv(JUDGE_TOKEN)
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
