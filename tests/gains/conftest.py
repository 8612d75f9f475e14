"""A tiny editor and its decomposition, for every rule."""

import pytest

from tests.support.made import tiny_concepts, tiny_editor


@pytest.fixture(scope="session")
def editor(tmp_path_factory):
    return tiny_editor(tmp_path_factory.mktemp("editor"))


@pytest.fixture(scope="session")
def made(editor):
    return editor.decompose(tiny_concepts())
