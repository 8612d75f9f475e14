"""A test Hub with a long-lived client, and edited checkpoints to push. Users of these define a fixture ``hub``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.support import tiny
from tests.support.hub import Hub, leaks
from tests.support.hub_worker import Worker
from tests.support.made import tiny_concepts
from tests.support.pushing import PUSH


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A base with a card, its decomposition, an edit, and two edited folders: by the edit, and by another."""
    from sith_hf.editor import SithEditor

    root = tmp_path_factory.mktemp("made")
    base = tiny.save_clip(root / "secret-folder" / "base", seed=5)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# The base\n")
    (base / ".hidden").write_text("mine")
    (base / "pytorch_model.bin").write_bytes(b"other weights")
    editor = SithEditor.from_pretrained(base)
    concepts = editor.encode(tiny_concepts())
    decomposition = editor.decompose(concepts, layers=[0, 1])
    spec = editor.edit().vectors(0.0, layers=[1], heads=[0], vectors=[0, 1]).spec
    other = editor.edit().vectors(2.0, layers=[0], heads=[3], vectors=[2]).spec
    editor.save_pretrained(root / "edited", spec)
    editor.save_pretrained(root / "other", other)
    decomposition.save_pretrained(root / "decomposition")
    concepts.save_pretrained(root / "dictionary")
    spec.save_pretrained(root / "spec")
    return SimpleNamespace(root=root, base=base, edited=root / "edited", other=root / "other", spec=spec, editor=editor)


@pytest.fixture(scope="session")
def place():
    with Hub() as hub:
        yield hub
    assert not hub.errors, "\n".join(hub.errors)


@pytest.fixture(scope="session")
def worker(place, tmp_path_factory):
    home = tmp_path_factory.mktemp("client") / "home"
    with Worker(place, home) as client:
        yield client
    # No answer and no file of any test of the session contains a token.
    assert [token for token in place.secrets() if token in client.heard] == []
    assert leaks(place, None, home) == []


@pytest.fixture
def push(hub, worker, made):
    """Push the edited folder (or another) to a repository; its result as plain data."""

    def call(repo, folder=None, token=None, **options):
        return worker.do(PUSH, token or hub.token, folder=str(folder or made.edited), repo=repo, options=options)

    return call
