"""Edit recipes: a decomposition's settings and the edits to choose from it, as YAML and as frozen objects."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.editor import Edit, SithEditor
from sith_hf.errors import InputError
from sith_hf.gains import THRESHOLD
from sith_hf.pursuit import Pursuit


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DecomposeStep(_Part):
    """How to decompose; fields as for :func:`sith_hf.decompose.decompose`."""

    layers: tuple[int, ...] | None = None
    rank: int | None = None
    poles: Literal["+-", "+"] = "+-"
    method: str = "comp"
    sparsity: int = 5
    coherence_weight: float = 0.3
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
    """A recipe: what it is for, over which concepts (our own list when None), how to decompose, what to edit."""

    title: str
    dictionary: tuple[str, ...] | None = None
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
    def source(cls, name_or_path: str) -> str:
        """The YAML of a recipe that comes with sith-hf, or of a file. Raises InputError."""
        folder = files("sith_hf.recipes")
        if re.fullmatch(r"[\w-]+", name_or_path) and (folder / f"{name_or_path}.yaml").is_file():
            return (folder / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        try:
            return Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"{name_or_path}: the recipe could not be read ({error})") from None

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

    def decompose_with(self, editor: SithEditor, *, progress: bool = False) -> Decomposition:
        """Decompose the editor's model as this recipe says."""
        step = self.decompose
        pursuit = Pursuit(method=step.method, sparsity=step.sparsity, coherence_weight=step.coherence_weight)
        texts = self.dictionary
        return editor.decompose(
            ConceptDictionary.builtin() if texts is None else ConceptDictionary.from_texts(texts),
            layers=step.layers,
            rank=step.rank,
            poles=step.poles,
            pursuit=pursuit,
            fold=step.fold,
            centre=step.centre,
            progress=progress,
        )

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
