"""Errors in a Hub call: the client's become one HubError, our own pass unchanged."""

from __future__ import annotations

import importlib

import pytest
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from sith_hf.errors import HubError, InputError
from sith_hf.hub.errors import TRANSPORT, hub_errors, refused
from tests.support.pushing import SENT, outcome, state

pytest_plugins = ["tests.support.push_fixtures"]

HTTP = importlib.import_module(TRANSPORT.__module__.partition(".")[0])
TOKEN = "hf_" + "aB3" * 10


@pytest.fixture
def hub(place):
    place.heal()
    place.forget()
    return place


@pytest.mark.parametrize("kind", [KeyError, TypeError, AttributeError, AssertionError, ValueError, InputError])
def test_a_sith_error_passes_through(kind):
    with pytest.raises(kind, match="ours"), hub_errors("asking", "model repository me/x"):
        raise kind("ours")


def test_the_same_errors_of_the_client_are_a_malformed_answer():
    words = r"asking failed: the Hub's answer is malformed \(KeyError: 'size'\)"
    with pytest.raises(HubError, match=words) as caught, hub_errors("asking", "model repository me/x"):
        RepoFile(path="a")
    assert not refused(caught.value)


@pytest.mark.parametrize(
    ("status", "advice", "no"),
    [
        (401, "rejects the token", True),
        (403, "--create-pr", True),
        (404, "check its name", True),
        (409, "conflicts", True),
        (412, "changed meanwhile", True),
        (418, "refused the request with status 418", True),
        (429, "a few minutes", True),
        (503, "status.huggingface.co", False),
    ],
)
def test_each_status_has_its_advice_and_no_token(status, advice, no):
    request = HTTP.Request("POST", "https://hub/api")
    response = HTTP.Response(status, request=request, text="no")
    with pytest.raises(HubError) as caught, hub_errors("asking", "model repository me/x", TOKEN):
        raise HfHubHTTPError("no", response=response, server_message=f"bad {TOKEN}\nno")
    assert advice in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert refused(caught.value) is no


@pytest.mark.parametrize(
    "step", ["whoami", "info", "create", "tree", "validate_yaml", "preupload", "lfs_batch", "commit", "refs"]
)
def test_an_answer_of_any_other_shape_ends_in_one_sentence(hub, push, made, step):
    options = {"create_pr": True} if step == "refs" else {}
    for number, answer in enumerate((b"", b"<html>", b"null", b"[]", b"{}", b'"x"', b'[{"path": 5}]')):
        repo = f"{'' if step == 'whoami' else 'me/'}odd-{step}-{number}"
        full = repo if "/" in repo else f"me/{repo}"
        if step not in ("create", "whoami"):
            hub.seed(full, {"sith/edit_spec.safetensors": b"old"})
        before = state(hub, full)
        fault = hub.fail(step, times=None, edit=lambda _, answer=answer: answer)
        message, kinds = outcome(lambda repo=repo, options=options: push(repo, **options))
        hub.heal()
        assert fault.struck, (step, answer)
        assert kinds is None or "HubError" in kinds, (step, answer, message)
        if message is None:
            assert set(hub.repo(full).files("refs/pr/1" if options else "main")) == SENT, (step, answer)
        elif "not known" not in message and "was written" not in message:
            assert state(hub, full) == before or "could not be deleted" in message, (step, answer, message)
