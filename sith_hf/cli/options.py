"""Options that several subcommands share, and the types of their values."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from sith_hf.core.escaping import sanitize

F = TypeVar("F", bound=Callable[..., Any])


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Whole numbers separated by commas, such as ``-2,-1``."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(item) for item in str(value).split(","))
        except ValueError:
            self.fail(f"'{sanitize(str(value))}' is not a list of whole numbers such as 0,1 or -2,-1", param, ctx)


class ConceptGain(click.ParamType):  # type: ignore[type-arg]
    """A concept with an optional gain, such as ``bird`` or ``bird=1.5``."""

    name = "CONCEPT[=GAIN]"

    def __init__(self, default: float) -> None:
        self.default = default

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if isinstance(value, tuple):
            return value
        concept, separator, gain = str(value).rpartition("=")
        if not separator:
            return str(value), self.default
        try:
            return concept, float(gain)
        except ValueError:
            self.fail(f"'{sanitize(gain)}' is not a number; write a gain such as {sanitize(concept)}=0.5", param, ctx)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, listed in --help in this order."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


model_options = together(
    click.option("--text-model", help="The CLIPModel that a vision-only MODEL belongs to: folder or Hub id."),
    click.option("--revision", help="Branch, tag or commit of MODEL on the Hub."),
)
_THRESHOLD = "Minimum share of an explanation that the concepts must have.  [default: 0.5]"
_NEAR = "Minimum cosine of centred embeddings for a concept to count as near.  [default: 0.6]"
_POLES = "Choose a vector by the mean of its poles, not by its stronger pole."
rule_options = together(
    click.option("--threshold", type=float, help=_THRESHOLD),
    click.option("--near", type=float, help=_NEAR),
    click.option("--both-poles", is_flag=True, help=_POLES),
)


def output_option(what: str) -> Callable[[F], F]:
    """Add ``-o/--output``, a folder for ``what``."""
    text = f"Folder for {what}; created if missing."
    return click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help=text)


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an output folder that is not empty.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def given(**options: Any) -> dict[str, Any]:
    """Drop the options that were not given: their defaults are those of the function that is called."""
    return {name: value for name, value in options.items() if value is not None}


def echo_json(value: Any) -> None:
    """Print ``value`` as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))
