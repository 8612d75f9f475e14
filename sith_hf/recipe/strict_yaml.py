"""Strict reading of YAML, and its one written form."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError


class _Loader(yaml.SafeLoader):
    """A loader of plain data that refuses repeated keys and references."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            # A few nested references can expand to billions of values.
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, "references (*name) are not allowed; write the value again", event.start_mark
            )
        return super().compose_node(parent, index)

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
    """Read plain data from YAML. Raises InputError, naming ``source``, for anything else.

    Without ``quote``, the message does not quote the text: a file that a recipe names may be any file of the user.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    # A tag such as !!int raises the exceptions of Python's conversion.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = "" if mark is None else f", line {mark.line + 1}"
        shown = sanitize(" ".join(str(problem).split()), 300)
        raise InputError(f"{source}{line}: not YAML of plain data{f' ({shown})' if quote else ''}") from None


def write_yaml(data: Any, comment: str) -> str:
    """Return ``data`` as YAML, keys in their order, below a comment of one line."""
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return f"# {sanitize(comment, 1000)}\n{body}"
