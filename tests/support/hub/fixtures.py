"""The ``hub`` fixture. In a test module: ``pytest_plugins = ["tests.support.hub.fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.hub.core import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A fresh test Hub; a failure of its own fails the test."""
    with Hub() as made:
        yield made
    assert not made.errors, "\n".join(made.errors)
