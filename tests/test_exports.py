"""The public names of ``sith_hf``: complete, sorted, importable, and loaded on first use."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest

import sith_hf


def type_checked() -> set[str]:
    """The names that type checkers see in the package."""
    tree = ast.parse(Path(sith_hf.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name for block in blocks for node in block.body for alias in node.names}


def test_the_names_of_the_design_are_there():
    assert {"SithEditor", "ConceptDictionary", "Decomposition", "EditSpec", "SithError"} <= set(sith_hf.__all__)


def test_they_are_sorted_and_each_occurs_once():
    assert sith_hf.__all__ == sorted(set(sith_hf.__all__))


def test_each_is_the_documented_class_or_function_of_its_home():
    for name in sith_hf.__all__:
        exported = getattr(sith_hf, name)
        assert isinstance(exported, (type, FunctionType)), name
        assert exported.__name__ == name
        assert exported is getattr(import_module(exported.__module__), name)
        assert exported.__module__.startswith("sith_hf."), name
        assert exported.__doc__, name


def test_type_checkers_see_the_same():
    assert type_checked() == set(sith_hf.__all__)


def test_star_and_dir():
    names: dict[str, object] = {}
    exec("from sith_hf import *", names)  # what a notebook does
    assert set(sith_hf.__all__) <= set(names)
    assert "import_module" not in names
    assert set(sith_hf.__all__) | {"__version__"} == set(dir(sith_hf))
    assert dir(sith_hf) == sorted(dir(sith_hf))


@pytest.mark.parametrize("name", ["Nothing", "sitheditor", "_secret"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(AttributeError, match="sith_hf"):
        getattr(sith_hf, name)
    assert not hasattr(sith_hf, name)


def test_an_unknown_import_is_refused():
    with pytest.raises(ImportError):
        exec("from sith_hf import Nothing")


PROBE = """
import sys
import sith_hf
heavy = {"torch", "transformers", "datasets", "numpy", "safetensors", "huggingface_hub"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
dir(sith_hf), sith_hf.__version__, sith_hf.SithError
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import numpy
assert heavy & set(sys.modules)  # the control
"""


def test_importing_is_free_until_something_is_used():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
