"""Templates from somebody else's file: jinja's sandbox, restricted so that every template ends within a second.

A template may use variables, constants, conditions, comparisons, loops over ``range`` and the variables, and a few
filters that make no text longer. It has at most ``MOST_TURNS`` turns of loops and ``MOST_CHARACTERS`` characters. What
could grow or call without bound is refused before it runs: arithmetic, other calls, macros, blocks and assignments.
Messages do not quote a template: a recipe may name any file of the user's as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST_TURNS = 10_000
MOST_CHARACTERS = 200_000

_NODES = {
    "Template", "Output", "TemplateData", "Name", "Const", "Tuple", "List", "Getattr", "Getitem", "Include",
    "If", "For", "CondExpr", "Compare", "Operand", "And", "Or", "Not", "Test", "Filter", "Call", "Neg",
}  # fmt: skip
_FILTERS = {"default", "first", "int", "last", "length", "lower", "title", "trim", "upper"}
_TESTS = {"defined", "undefined", "divisibleby", "even", "odd", "in", "eq", "ne", "none"}

# What a template can raise in addition to TemplateError; SyntaxError from deeply nested blocks.
_FAULTS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


class UnusableTemplate(Exception):
    """A template that is not one, uses something else than is allowed, or has no end."""


@dataclass(frozen=True, eq=False)
class Template:
    """A compiled template.

    Attributes:
        compiled: of jinja.
    """

    compiled: Any


def compile_template(source: str, parts: Mapping[str, str]) -> Template:
    """Compile a template, which may include ``parts`` by name. Raises UnusableTemplate."""
    from jinja2 import DictLoader, StrictUndefined, TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=DictLoader(dict(parts)),
        autoescape=False,  # a question is not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["_bounded"] = _bounded
    try:
        return Template(environment.from_string(_restricted(environment.parse(source))))
    except (TemplateError, *_FAULTS) as error:
        raise UnusableTemplate(_reason(error)) from None


def fill(template: Template, values: Mapping[str, str]) -> str:
    """Return the text of a template. Raises UnusableTemplate."""
    from jinja2 import TemplateError

    pieces, size = [], 0
    try:
        for piece in template.compiled.generate(**values, _turns=_Turns()):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_CHARACTERS:
                raise UnusableTemplate(f"it has more than {MOST_CHARACTERS:,} characters")
    except (TemplateError, *_FAULTS) as error:
        raise UnusableTemplate(_reason(error)) from None
    return "".join(pieces)


class _Turns:
    """The turns that the loops of one filling have left."""

    def __init__(self) -> None:
        self.left = MOST_TURNS


def _bounded(items: Iterable[Any], turns: _Turns) -> Iterator[Any]:
    """Iterate over the items of a loop until no turn is left."""
    for item in items:
        turns.left -= 1
        if turns.left < 0:
            raise UnusableTemplate(f"its loops have more than {MOST_TURNS:,} turns")
        yield item


def _restricted(tree: Any) -> Any:
    """Return a parsed template whose loops are bounded. Raises UnusableTemplate for what is not allowed."""
    from jinja2 import nodes

    for node in tree.find_all(nodes.Node):
        kind = type(node).__name__
        allowed = kind in _NODES
        if isinstance(node, nodes.Filter):
            allowed = node.name in _FILTERS
        elif isinstance(node, nodes.Test):
            allowed = node.name in _TESTS
        elif isinstance(node, nodes.Call):
            allowed = isinstance(node.node, nodes.Name) and node.node.name == "range"
        elif isinstance(node, nodes.For):
            allowed = not node.recursive and node.test is None
        elif isinstance(node, nodes.Include):
            allowed = isinstance(node.template, nodes.Const)
        if not allowed:
            line = getattr(node, "lineno", None)
            raise UnusableTemplate(f"it uses a {kind}" + (f" in line {line}" if line else ""))
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = nodes.Filter(
            loop.iter, "_bounded", [nodes.Name("_turns", "load")], [], None, None, lineno=loop.lineno
        )
    return tree


def _reason(error: BaseException) -> str:
    # The line of a SyntaxError is one of the compiled code.
    line = None if isinstance(error, SyntaxError) else getattr(error, "lineno", None)
    return type(error).__name__ + (f" in line {line}" if line else "")
