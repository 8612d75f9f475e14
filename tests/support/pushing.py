"""Helpers for tests of uploads and downloads."""

from __future__ import annotations

import pytest

from tests.support.hub_worker import Refused

PUSH = "out = hub.push_edited(folder, repo, **options).to_json()"
SENT = {
    "README.md", "config.json", "model.safetensors", "sith/base/README.md", "sith/edit_map.png",
    "sith/edit_spec.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def refused(call):
    """Return the message of the error of sith-hf that the call raises."""
    with pytest.raises(Refused) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert not caught.value.chained
    assert message == message.strip()
    assert "Traceback" not in message
    return message


def outcome(call):
    """Return the message and the class names of the error that a call raises; None and None if it succeeds."""
    try:
        call()
    except Refused as error:
        message = str(error)
        # One sentence of sith-hf, not chained to another error.
        if "\n" in message or error.chained:
            raise
        return message, error.kinds
    return None, None


def state(hub, repo, kind="model"):
    """Return the whole state of a repository; None without one."""
    found = hub.store.repos.get((kind, repo))
    return None if found is None else (dict(found.branches), dict(found.tags), len(found.pulls), found.private)


def writes(hub):
    return [r for r in hub.requests if r.method != "GET" and r.method != "HEAD"]
