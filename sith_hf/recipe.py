"""Edit recipes: a decomposition's settings and the edits to choose from it, as YAML and as frozen objects."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sith_hf.decomposition import NEAR
from sith_hf.editor import Edit, SithEditor
from sith_hf.errors import InputError
from sith_hf.gains import THRESHOLD


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DecomposeStep(_Part):
    """How to decompose; fields as for :func:`sith_hf.decompose.decompose`."""

    layers: tuple[int, ...] | None = None
    rank: int | None = None
    poles: Literal["+-", "+"] = "+-"
    method: str = "comp"
    sparsity: int = 5
    coherence: float = 0.3
    fold: bool = True
    centre: bool | None = None


class EditStep(_Part):
    """One gain for the vectors that speak of some concepts; fields as for :meth:`sith_hf.editor.Edit.set_gain`."""

    concepts: tuple[str, ...]
    gain: float = 0.0
    threshold: float = THRESHOLD
    near: float = NEAR
    both_poles: bool = False
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


class Recipe(_Part):
    """A recipe: what it is for, how to decompose, what to edit."""

    title: str
    decompose: DecomposeStep = DecomposeStep()
    edits: tuple[EditStep, ...]

    @classmethod
    def from_text(cls, text: str, source: str) -> Recipe:
        """Read YAML. Raises InputError, naming ``source``, for anything that is not a recipe."""
        try:
            data = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise InputError(f"{source} is not YAML: {error}") from None
        try:
            return cls.model_validate_json(_json(data, source))
        except ValidationError as error:
            raise InputError(f"{source}: {'; '.join(_complaint(item) for item in error.errors())}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """Read a YAML file. Raises InputError."""
        try:
            return cls.from_text(Path(path).read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: the recipe could not be read ({error})") from None

    @classmethod
    def shipped(cls, name: str) -> Recipe:
        """A recipe that comes with sith-hf. Raises InputError for a name that is not among them."""
        folder = files("sith_hf.recipes")
        known = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
        if name not in known:
            raise InputError(f"no recipe {name!r} comes with sith-hf; there are: {', '.join(known)}")
        return cls.from_text((folder / f"{name}.yaml").read_text(encoding="utf-8"), f"recipe {name}")

    def choose(self, editor: SithEditor) -> Edit:
        """The edits of this recipe, chosen from the editor's decomposition."""
        edit = editor.edit()
        for step in self.edits:
            rule = {name: value for name, value in step.model_dump().items() if name != "concepts"}
            edit = edit.set_gain(*step.concepts, **rule)
        return edit


def _json(data: Any, source: str) -> str:
    import json

    try:
        return json.dumps(data)
    except (TypeError, ValueError, RecursionError):
        raise InputError(
            f"{source} holds values that are neither text, number, truth value, list nor mapping"
        ) from None


def _complaint(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"]) or "the recipe"
    if item["type"] != "extra_forbidden":
        return f"{place}: {item['msg']}"
    known = {name for part in (Recipe, *get_args(DecomposeStep | EditStep)) for name in part.model_fields}
    close = get_close_matches(str(item["loc"][-1]), known, n=1)
    return f"unknown key {place}" + (f"; did you mean {close[0]}?" if close else "")
