"""Strict reading of YAML, and its one written form."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import yaml

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError

if TYPE_CHECKING:
    _Fast = yaml.SafeLoader
else:
    # libyaml reads twenty times as fast, where PyYAML was built with it.
    _Fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_NESTED = 100


class _Loader(_Fast):
    """A loader of plain data that refuses repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} is not a text", key.start_mark)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} is repeated", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, source: str, *, quote: bool = True) -> Any:
    """Read plain data from YAML.

    Args:
        text: the YAML.
        source: its name, for messages.
        quote: whether a message may quote the text. Not for a file that a recipe names: it may be any file of the user.

    Raises:
        InputError: anything else than plain data.
    """
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    # A tag such as !!int raises the exceptions of Python's conversion.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = "" if mark is None else f", line {mark.line + 1}"
        shown = f" ({sanitize(' '.join(str(problem).split()), 300)})" if quote else ""
        raise InputError(f"{source}{line}: not YAML of plain data{shown}") from None


def _check_events(text: str) -> None:
    """Raise a YAMLError for references, of which a few can expand to billions of values, and for deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_Fast):
        problem = None
        if isinstance(event, yaml.events.AliasEvent):
            problem = "references (*name) are not allowed; write the value again"
        elif isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
            problem = "nested too deeply" if depth > MOST_NESTED else None
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1
        if problem is not None:
            mark: Any = event.start_mark
            raise yaml.constructor.ConstructorError(None, None, problem, mark)


def write_yaml(data: Any, comment: str) -> str:
    """Return ``data`` as YAML, keys in their order, below a comment of one line."""
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return f"# {sanitize(comment, 1000)}\n{body}"
