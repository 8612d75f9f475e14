"""``Comparison``: a base and checkpoints or edits of it, to evaluate side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sith_hf.core.escaping import shown_name
from sith_hf.core.fingerprint import changed_setting
from sith_hf.core.short_repr import short_repr
from sith_hf.editor.editor import SithEditor
from sith_hf.edits import AnySpec
from sith_hf.errors import InputError
from sith_hf.images import (
    BASE,
    EDITED,
    ModelVariant,
    check_processors,
    image_processor,
    model_variants,
    own_text,
    share,
    text_model_of,
)
from sith_hf.towers import LoadedModel, family_of, load_model, tower_settings


@short_repr
@dataclass(frozen=True, eq=False)
class Comparison:
    """Variants of a model, and the text tower that encodes texts for all of them.

    Attributes:
        variants: the base first.
        text: the model that encodes texts for all variants without a text tower of their own, with its tokenizer; None
            for vision-only models.
    """

    variants: tuple[ModelVariant, ...]
    text: LoadedModel | None

    @classmethod
    def from_checkpoints(
        cls,
        base: str | Path,
        others: Mapping[str, str | Path],
        *,
        revision: str | None = None,
        text_model: str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Comparison:
        """Load a base and checkpoints to compare with it, each a folder or a Hub id.

        Args:
            base: the reference.
            others: name to checkpoint, such as ``"edited"``.
            revision: branch, tag or commit of the base on the Hub.
            text_model: the whole model that vision-only checkpoints belong to.
            device, dtype: of all models, as for :meth:`sith_hf.editor.SithEditor.from_pretrained`.

        Raises:
            InputError: a checkpoint that cannot be loaded, has the base's weights or other sizes, an image processor
                different from the base's, or a text tower that differs by more than an edit.
        """
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        editor = SithEditor.from_pretrained(base, revision, text_model=text_model, **placed)
        first = model_variants(editor, {BASE: None})[0]
        made = [first]
        for name, place in others.items():
            loaded = load_model(str(place), **placed)
            _comparable(first.model, loaded.model, shown_name(str(base)), shown_name(str(place)))
            share(first.model, loaded.model)
            processor = image_processor(loaded, editor.companion)
            text = own_text(editor, loaded.model)
            made.append(ModelVariant(name, loaded.model, processor, first.projection, text=text, device=first.device))
        check_processors(made)
        return cls(tuple(made), text_model_of(editor))

    @classmethod
    def from_spec(
        cls,
        base: str | Path,
        spec: AnySpec,
        *,
        revision: str | None = None,
        text_model: str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> Comparison:
        """Load a base, and compare it with its edit by ``spec``.

        Raises:
            InputError: a base that cannot be loaded, or an empty edit.
            BaseMismatch: an edit of another model.
        """
        if not spec:
            raise InputError("the edit is empty: base and edited are the same model")
        editor = SithEditor.from_pretrained(base, revision, text_model=text_model, device=device, dtype=dtype)
        return cls(model_variants(editor, {BASE: None, EDITED: spec}), text_model_of(editor))


def _text_names(model: Any) -> frozenset[str]:
    """Return the names in memory of the parameters of a model's text tower and its projection."""
    text = family_of(model).text(model)
    parts = () if text is None else (text.tower, text.projection)
    own = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in own)


def _text_outputs(model: Any) -> frozenset[str]:
    """Return the paths of the output projections in a model's text tower."""
    family = family_of(model)
    if "text" not in family.towers(type(model).__name__):
        return frozenset()
    tower, path = family.locate(model, "text")
    return frozenset(f"{path}.{output}" for output in family.outputs(tower))


def _settings(model: Any, part: str) -> dict[str, Any]:
    """Return the settings of a tower; none for a model without it."""
    family = family_of(model)
    if part in family.towers(type(model).__name__):
        return family.settings(model.config, part)
    return tower_settings(model.config, part) if hasattr(model.config, f"{part}_config") else {}


def _comparable(base: Any, other: Any, base_name: str, other_name: str) -> None:
    ours, theirs = base.state_dict(), other.state_dict()
    if {key: value.shape for key, value in ours.items()} != {key: value.shape for key, value in theirs.items()}:
        raise InputError(
            f"{other_name} ({type(other).__name__}) and {base_name} ({type(base).__name__}) differ in architecture or "
            "size; compare an edited checkpoint with the base that it was made from"
        )
    for part in ("vision", "text"):
        ours_set, theirs_set = _settings(base, part), _settings(other, part)
        differing = changed_setting(ours_set, theirs_set)
        if differing is not None:
            raise InputError(
                f"the {part} tower of {base_name} has {differing[0]}, that of {other_name} has {differing[1]}: compare "
                "an edited checkpoint with the base that it was made from, with the same config.json"
            )
    changed = [key for key, value in ours.items() if not torch.equal(value, theirs[key].to(value.dtype))]
    if not changed:
        raise InputError(f"{other_name} has the same weights as {base_name}: there is no edit to evaluate")
    own = _text_names(base)
    texts = [key for key in changed if key in own]
    editable = _text_outputs(base)
    beyond = [key for key in texts if key.rpartition(".")[0] not in editable]
    if beyond:
        raise InputError(
            f"{other_name} and {base_name} have different text towers: {beyond[0]} is no output projection, which an "
            "edit changes. Texts are read with the tokenizer of the base: compare an edited checkpoint with the base "
            "that it was made from"
        )
