"""Gradio's stub files are not written."""

import inspect

import pytest

from sith_hf.explore import Explorer
from sith_hf.explore.stubs import no_stubs


def test_the_sources_of_gradio_classes_are_hidden_inside_only():
    class Component:
        """Looks like a class of Gradio."""

    Component.__module__ = "gradio.components.made_up"
    with no_stubs():
        with pytest.raises(OSError, match="hidden"):
            inspect.getfile(Component)
        assert inspect.getfile(Explorer).endswith("explorer.py")
        assert inspect.getfile(inspect) == inspect.__file__
    with pytest.raises((OSError, TypeError)) as found:
        inspect.getfile(Component)
    assert str(found.value) != "hidden"
