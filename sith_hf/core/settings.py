"""Settings from YAML or JSON: frozen pydantic models with readable error messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, ValidationError

from sith_hf.core.escaping import sanitize
from sith_hf.core.ranges import parse_numbers
from sith_hf.core.validation import nearest
from sith_hf.errors import InputError


class Settings(BaseModel):
    """A frozen group of settings. Unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def from_data(cls, data: Any, source: str) -> Self:
        """Validate plain data from YAML or JSON.

        Raises:
            InputError: the message names ``source``, the place of every mistake, and the nearest key to an unknown one.
        """
        try:
            # Validated as JSON, which converts lists to tuples and nothing else.
            return cls.model_validate_json(json.dumps(data, allow_nan=True))
        except ValidationError as error:
            parents = {item["loc"][:length] for item in error.errors() for length in range(len(item["loc"]))}
            complaints = [
                _complaint(cls, dict(item))
                for item in error.errors()
                # A list whose only item is invalid is also reported as too short; skip that.
                if item["type"] != "too_short" or item["loc"] not in parents
            ]
            raise InputError(f"{source}: {'; '.join(dict.fromkeys(complaints))}") from None
        except (TypeError, ValueError, RecursionError):
            raise InputError(f"{source} may hold only texts, numbers, booleans, lists and mappings") from None


def _numbers(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    return parse_numbers(value, "numbers") if isinstance(value, str | list | tuple) else value


NumberChoice = Annotated[
    tuple[int | str, ...],
    BeforeValidator(_numbers, json_schema_input_type=int | str | tuple[int | str, ...]),
]
"""Layers, heads or vectors: a list of numbers and ranges, or a text such as ``"-4:"`` (:mod:`sith_hf.core.ranges`)."""


def by_key(key: str, values: Sequence[str], default: str | None = None) -> Discriminator:
    """Return a discriminator of a union of settings by the value of a key; its members have ``Tag(f"tag:{value}")``.

    Args:
        key: the key that each member has.
        values: its value in each member, for the message about any other.
        default: the value when the key is left out.
    """

    def tag(data: Any) -> str:
        return f"tag:{data.get(key, default) if isinstance(data, Mapping) else getattr(data, key, None)}"

    known = f"{', '.join(values[:-1])} or {values[-1]}"
    return Discriminator(tag, custom_error_type=f"unknown_{key}", custom_error_message=f"{key} is one of {known}")


def _complaint(root: type[Settings], item: Mapping[str, Any]) -> str:
    loc = item["loc"]
    # A location contains the tags and types of unions, which no user wrote.
    shown = ".".join(sanitize(str(part)) for part in loc if not re.match(r"tag:|[\w-]+\[.*\]$", str(part)))
    if item["type"] != "extra_forbidden":
        message = _unquoted(item) or str(item["msg"]).removeprefix("Value error, ")
        return f"{shown}: {message}" if shown else message
    known = sorted(_keys_at(root, loc[:-1]))
    close = nearest(str(loc[-1]), known, cutoff=0.5)
    hint = f"did you mean {close}?" if close else f"known there: {', '.join(known)}"
    return f"unknown key {shown}; {hint}"


def _unquoted(item: Mapping[str, Any]) -> str | None:
    """Return the advice for a text that YAML reads as another type without quotes; None for other mistakes."""
    value = item.get("input")
    if item["type"] != "string_type" or not isinstance(value, bool | int | float):
        return None
    if isinstance(value, bool):
        return f'expected a text, got {str(value).lower()}: YAML reads yes, no, on and off as that; quote them: "yes"'
    return f'expected a text, got the number {value}; quote it: "{value}"'


def _keys_at(root: type[Settings], loc: tuple[Any, ...]) -> set[str]:
    """Return the keys that are valid at a location below ``root``."""
    here: list[type[Settings]] = [root]
    for part in loc:
        if isinstance(part, str) and part.startswith("tag:"):
            tag = part.removeprefix("tag:")
            here = [m for m in here if any(tag in get_args(f.annotation) for f in m.model_fields.values())] or here
            continue
        fields = [field for model in here for name, field in model.model_fields.items() if part in (name, field.alias)]
        # An index of a list or the tag of a union names no field: stay at the same settings.
        here = [inside for field in fields for inside in _inside(field.annotation)] or here
    return {field.alias or name for model in here for name, field in model.model_fields.items()}


def _inside(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)
