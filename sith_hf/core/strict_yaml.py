"""Strict reading of YAML, and its one written form."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
"""The largest text and number of values that are read, in a few seconds. The longest shipped recipe has 3,000."""

MAX_DEPTH = 50


_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    """A loader of plain data that refuses repeated keys, references, and more values or levels than a person writes."""

    values = depth = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        # YAML 1.1 reads 8:11 as 8 * 60 + 11; here it is a range of layers.
        if kind is yaml.ScalarNode and implicit[0] and _SIXTIES.fullmatch(value):
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.values += 1
        if isinstance(event, yaml.events.AliasEvent):
            # A few nested references can expand to billions of values.
            raise _refused("references (*name) are not allowed; write the value again", event.start_mark)
        if self.values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values; move long lists into files of their own", None)
        if self.depth >= MAX_DEPTH:
            raise _refused(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                written = str(key.value) if isinstance(key, yaml.ScalarNode) else repr(name)
                raise _refused(f'key {written} is not a text; quote it: "{written}"', key.start_mark)
            if name in seen:
                raise _refused(f"key {name!r} is repeated", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def read_yaml(text: str, source: str, *, quote: bool = True) -> Any:
    """Read plain data from YAML. Raises InputError, naming ``source``, for anything else.

    Without ``quote``, the message does not quote the text: a file that a recipe names may be any file of the user.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"{source}: YAML may have at most {MAX_CHARACTERS:,} characters, got {len(text):,}; move long texts into "
            "files of their own"
        )
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
        shown = sanitize(" ".join(str(problem)[:1000].split()), 300)
        raise InputError(f"{source}{line}: not YAML of plain data{f' ({shown})' if quote else ''}") from None


def write_yaml(data: Any, comment: str) -> str:
    """Return ``data`` as YAML, keys in their order, below a comment of one line."""
    body = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    return f"# {sanitize(comment, 1000)}\n{body}"
