"""The tests themselves: each one can fail, whichever branch it takes.

A test must reach a check under no condition: an ``assert``, a ``raise``, a ``with pytest.raises``, or the call of a
function that itself always checks. Which functions do is derived from their bodies, across files and fixtures.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
CHECKS = {"pytest.raises", "pytest.fail", "pytest.warns"}
# Checks that hold on some machines only.
CONDITIONAL = {"tests.images.test_datasets::test_half_precision_needs_a_gpu"}


def sources() -> dict[str, str]:
    """Dotted name to source of every module below tests/."""
    found = {path.relative_to(ROOT.parent).with_suffix(""): path.read_text("utf-8") for path in ROOT.rglob("*.py")}
    return {".".join(path.parts).removesuffix(".__init__"): source for path, source in sorted(found.items())}


@cache
def functions(source: str) -> tuple[ast.FunctionDef, ...]:
    """Every function of a source, methods and inner functions included."""
    return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))


@cache
def imported(source: str) -> dict[str, tuple[str, str]]:
    """Local name to (module, name in it), of what a source imports from tests."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if (node.module or "").startswith("tests")]
    return {alias.asname or alias.name: (str(node.module), alias.name) for node in ours for alias in node.names}


def reached(body: list[ast.stmt], branches: bool) -> Iterator[ast.AST]:
    """The nodes that a body reaches: with ``branches`` those under a condition too, never those of inner functions."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            continue
        conditional = isinstance(statement, (ast.If, ast.While))
        names = ("body", "orelse") if conditional and branches else () if conditional else ("body", "finalbody")
        blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody", "handlers")]
        below = {id(node) for block in blocks for item in block for node in ast.walk(item)}
        yield from (node for node in ast.walk(statement) if id(node) not in below)
        for name in names:
            yield from reached(getattr(statement, name, []), branches)


def checks(function: ast.FunctionDef, calls_a_check: Callable[[ast.expr, set[str]], bool]) -> bool:
    """Whether a function always checks something, or is a fixture that gives one which does."""
    # Where hypothesis draws examples, a condition leaves out some of them and not the test.
    drawn = any("given(" in ast.unparse(decorator) for decorator in function.decorator_list)
    nodes = list(reached(function.body, drawn))
    arguments = {item.arg for item in (*function.args.args, *function.args.kwonlyargs)}
    inner = {node.name: node for node in function.body if isinstance(node, ast.FunctionDef)}
    given = [node.value for node in nodes if isinstance(node, (ast.Return, ast.Yield))]
    return (
        any(isinstance(node, (ast.Assert, ast.Raise)) for node in nodes)
        or any(isinstance(node, ast.Call) and calls_a_check(node.func, arguments) for node in nodes)
        or any(isinstance(v, ast.Name) and v.id in inner and checks(inner[v.id], calls_a_check) for v in given)
    )


def checking(modules: Mapping[str, str]) -> set[tuple[str, str]]:
    """(module, function) of every function below tests/ that always checks something."""
    found: set[tuple[str, str]] = set()

    def calls_a_check(module: str, call: ast.expr, arguments: set[str]) -> bool:
        text = ast.unparse(call)
        first, _, last = text.rpartition(".")
        known = imported(modules[module])
        if text in CHECKS or last.startswith("assert_"):
            return True
        if first:
            home = ".".join(known.get(first, ()))
            return (home, last) in found or (first == "self" and (module, last) in found)
        if text in arguments:  # a fixture
            packages = [name for name in modules if name.endswith(".conftest")]
            above = [name for name in packages if module.startswith(name.removesuffix("conftest"))]
            return any((place, text) in found for place in (module, *above)) or known.get(text) in found
        return (module, text) in found or known.get(text) in found

    while True:
        more = {
            (module, node.name)
            for module, source in modules.items()
            for node in functions(source)
            if (module, node.name) not in found and checks(node, lambda c, a, m=module: calls_a_check(m, c, a))
        }
        if not more:
            return found
        found |= more


def unchecked(modules: Mapping[str, str]) -> list[str]:
    """The tests that can end well without having checked anything."""
    found = checking(modules)
    names = {(module, node.name) for module, source in modules.items() for node in functions(source)}
    tests = {(m, name) for m, name in names if m.split(".")[-1].startswith("test_") and name.startswith("test_")}
    return sorted(f"{module}::{name}" for module, name in tests - found)


def test_every_test_checks_something():
    assert set(unchecked(sources())) <= CONDITIONAL


HELPERS = {"tests.support.cli": sources()["tests.support.cli"]}


@pytest.mark.parametrize(
    "source",
    [
        "def test_it():\n    run()",
        "def test_it():\n    ran = run()\n    if ran.code:\n        assert ran.err\n    else:\n        assert ran.out",
        "def test_it():\n    try:\n        run()\n    except ValueError:\n        assert True",
        "def test_it():\n    while waiting():\n        assert run()",
        "def test_it():\n    def inner():\n        assert run()",
        "def helper():\n    return run()\ndef test_it():\n    helper()",
        "def refused(x):\n    if x:\n        assert x.code\ndef test_it():\n    refused(run())",
        "class TestIt:\n    def test_it(self):\n        self.refused()",
        "from tests.support.cli import sith\ndef test_it():\n    sith('show')",
    ],
)
def test_a_test_that_checks_nothing_is_seen(source):
    assert unchecked({**HELPERS, "tests.test_newcomer": source}) == ["tests.test_newcomer::test_it"]


@pytest.mark.parametrize(
    "source",
    [
        "def test_it():\n    assert run()",
        "def test_it():\n    for x in 1, 2:\n        with open(x) as file:\n            assert file",
        "def test_it():\n    with pytest.raises(ValueError):\n        run()",
        "def test_it():\n    np.testing.assert_allclose(run(), 1)",
        "def helper():\n    assert run()\ndef test_it():\n    helper()",
        "class TestIt:\n    def refused(self):\n        assert run()\n    def test_it(self):\n        self.refused()",
        "from tests.support.cli import refused as no\ndef test_it():\n    no(run())",
        "from tests.support import cli\ndef test_it():\n    cli.refused(run())",
        "@pytest.fixture\ndef f():\n    def inner():\n        assert run()\n    return inner\ndef test_it(f):\n    f()",
        "@given(st.integers())\ndef test_it(x):\n    if x > 0:\n        assert run(x)",
    ],
)
def test_a_test_that_checks_something_is_not(source):
    assert unchecked({**HELPERS, "tests.test_newcomer": source}) == []
