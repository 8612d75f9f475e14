"""Settings and fixtures of all tests: no network, and no cache or token of the user."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

# Read by huggingface_hub and datasets when they are imported, so before anything else.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ["HF_HOME"] = os.path.join(tempfile.gettempdir(), f"sith-hf-tests-{os.getuid()}")
os.environ.pop("HF_TOKEN", None)
# Of this run: tests of one run may share embeddings, and none are left for the next.
_HOME = tempfile.TemporaryDirectory(prefix="sith-hf-tests-")
os.environ["SITH_HF_HOME"] = _HOME.name

# A million objects of libraries, made while tests are collected, need no look at each collection of garbage.
gc.disable()

if TYPE_CHECKING:
    from sith_hf.editor import SithEditor
    from tests.support.checkpoints import Checkpoints


def pytest_collection_finish() -> None:
    """Leave what the libraries and tests are made of out of all later collections of garbage."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """``os.fsync`` checks its descriptor and does not wait: a millisecond and more for each of many small files.

    No test can see whether a disk has written; those of the order of the calls and of their failures wrap this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def _few_leaves() -> Iterator[None]:
    """Effects of edits are measured on 48 drawn pictures, not 128: most tests only pass by there."""
    from importlib import import_module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sith_hf.evaluation.edit_effect"), "PICTURES", 48)
        yield


@pytest.fixture(scope="session", autouse=True)
def _few_draws() -> Iterator[None]:
    """Decompositions draw 100 random directions, not 16,000, which take most of the time of a tiny one."""
    from importlib import import_module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sith_hf.decomposition.decompose"), "DRAWS", 100)
        yield


@pytest.fixture(scope="module")
def all_draws() -> Iterator[None]:
    """Decompositions draw as many random directions as for users: for files that check which words are shown."""
    from importlib import import_module

    from sith_hf.decomposition import DRAWS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sith_hf.decomposition.decompose"), "DRAWS", DRAWS)
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoints]:
    """Tiny checkpoints and edits of them (:mod:`tests.support.checkpoints`), to read and not to change."""
    from tests.support.checkpoints import Checkpoints

    made = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    yield made
    assert made.changed() == []


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> SithEditor:
    """An editor of a tiny random CLIPModel. One for each file, since an editor remembers its latest decomposition."""
    from tests.support.made import tiny_editor

    return tiny_editor(tmp_path_factory.mktemp("editor"))
