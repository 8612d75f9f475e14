"""The decomposition of the tiny editor, for every rule."""

import pytest

from tests.support.made import tiny_concepts


@pytest.fixture(scope="module")
def made(editor):
    return editor.decompose(tiny_concepts())
