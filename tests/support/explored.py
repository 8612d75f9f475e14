"""Explorers of a tiny checkpoint. In a test module: ``pytest_plugins = ["tests.support.explored"]``."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest

from sith_hf.editor import SithEditor
from sith_hf.explore import Explorer
from tests.support.checkpoints import Checkpoints
from tests.support.made import tiny_concepts


@pytest.fixture(scope="session")
def with_model(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Explorer:
    """The explorer of a tiny checkpoint, with its model."""
    base, folder = checkpoints.base(), tmp_path_factory.mktemp("explained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sith_hf.decomposition.decompose"), "DRAWS", 100)
        SithEditor.from_pretrained(base).decompose(tiny_concepts()).save_pretrained(folder)
    return Explorer.open(folder, str(base))


@pytest.fixture(scope="session")
def without_model(with_model: Explorer) -> Explorer:
    """The same decomposition, without its model."""
    return replace(with_model, model=None)
