"""Make the variants of a comparison: a base, and edited copies that share its weights, or checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.escaping import shown_name
from sith_hf.core.fingerprint import changed_setting
from sith_hf.editor import SithEditor
from sith_hf.edits import AnySpec, applied, edited_parameters
from sith_hf.errors import InputError
from sith_hf.images.model_variant import BASE, EDITED, ModelVariant, check_processors, share
from sith_hf.images.processor import image_processor
from sith_hf.towers import LoadedModel, family_of, load_model, tower_settings, with_texts


def model_variants(
    editor: SithEditor, specs: Mapping[str, AnySpec | None], *, processor: Any | None = None
) -> tuple[ModelVariant, ...]:
    """Return a base and edited copies of it, which share every parameter that their edit leaves unchanged.

    Args:
        editor: of the base.
        specs: name to edit, in the order of results; None for the base.
        processor: the image processor, needed for a model in memory; the one in the checkpoint's folder when None.

    Raises:
        InputError: no variant named ``"base"``, no image processor, or offloaded weights.
        BaseMismatch: an edit of another model.
    """
    if specs.get(BASE, ...) is not None:
        raise InputError('no variant "base" without an edit; write {"base": None, "edited": spec}')
    if processor is None:
        processor = image_processor(editor.loaded, editor.companion)
    projection = None if editor.companion is None else _projection(editor.model, editor.companion.model)
    models = {name: editor.model if spec is None else edited_copy(editor.model, spec) for name, spec in specs.items()}
    return tuple(
        ModelVariant(name, model, processor, projection, text=_own_text(editor, model))
        for name, model in models.items()
    )


def _projection(model: Any, companion: Any) -> Tensor | None:
    """Return the projection of image embeddings ``[P, D]`` that ``model`` lacks and its companion has, if any."""
    if family_of(model).projection(model, "vision") is not None:
        return None
    found = family_of(companion).projection(companion, "vision")
    return None if found is None else found.weight.detach()


def edited_copy(model: Any, spec: AnySpec) -> Any:
    """Copy ``model`` with an edit; the copy shares all other parameters as the same objects.

    Raises:
        InputError, BaseMismatch: as :func:`sith_hf.edits.applied`; also for offloaded weights.
    """
    shared: dict[int, Any] = {}
    for parameter in model.parameters():
        if parameter.is_meta:
            raise InputError("the weights of this model are offloaded; load it without offloading to compare it")
        shared[id(parameter)] = parameter
    for parameter in edited_parameters(model, spec):
        shared.pop(id(parameter), None)
    with applied(model, spec):
        # deepcopy reuses the objects in its memo.
        return copy.deepcopy(model, shared)


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
    ) -> Comparison:
        """Load a base and checkpoints to compare with it, each a folder or a Hub id.

        Args:
            base: the reference.
            others: name to checkpoint, such as ``"edited"``.
            revision: branch, tag or commit of the base on the Hub.
            text_model: the whole model that vision-only checkpoints belong to.

        Raises:
            InputError: a checkpoint that cannot be loaded, has the base's weights or other sizes, an image processor
                different from the base's, or a text tower that differs by more than an edit.
        """
        editor = SithEditor.from_pretrained(base, revision, text_model=text_model)
        first = model_variants(editor, {BASE: None})[0]
        made = [first]
        for name, place in others.items():
            loaded = load_model(str(place))
            _comparable(first.model, loaded.model, shown_name(str(base)), shown_name(str(place)))
            share(first.model, loaded.model)
            processor = image_processor(loaded, editor.companion)
            text = _own_text(editor, loaded.model)
            made.append(ModelVariant(name, loaded.model, processor, first.projection, text=text))
        check_processors(made)
        return cls(tuple(made), text_model_of(editor))

    @classmethod
    def from_spec(
        cls, base: str | Path, spec: AnySpec, *, revision: str | None = None, text_model: str | Path | None = None
    ) -> Comparison:
        """Load a base, and compare it with its edit by ``spec``.

        Raises:
            InputError: a base that cannot be loaded, or an empty edit.
            BaseMismatch: an edit of another model.
        """
        if not spec:
            raise InputError("the edit is empty: base and edited are the same model")
        editor = SithEditor.from_pretrained(base, revision, text_model=text_model)
        return cls(model_variants(editor, {BASE: None, EDITED: spec}), text_model_of(editor))


def text_model_of(editor: SithEditor) -> LoadedModel | None:
    """Return the model that encodes texts for the editor's model; None if it has none."""
    return with_texts(editor.companion, editor.loaded)


def _own_text(editor: SithEditor, model: Any) -> LoadedModel | None:
    """Return a model, with the tokenizer of the base, as its own text model; None if its text tower is the base's.

    Raises:
        InputError: another model encodes the texts.
    """
    ours, theirs = (family_of(each).text(each) for each in (editor.model, model))
    if ours is None or theirs is None:
        return None
    shared = ours.tensors()
    if all(_same(tensor, shared[name]) for name, tensor in theirs.tensors().items()):
        return None
    if editor.companion is not None:
        raise InputError(
            f"{editor.companion.name} encodes the texts, so an edit of the text tower has no effect here: leave out "
            "text_model (--text-model on the command line)"
        )
    return replace(editor.loaded, model=model)


def _same(one: Tensor, two: Tensor) -> bool:
    return one.data_ptr() == two.data_ptr() or (one.dtype == two.dtype and torch.equal(one, two))


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
