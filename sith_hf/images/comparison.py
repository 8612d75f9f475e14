"""Make the variants of a comparison: a base, and edited copies that share its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sith_hf.edits import AnySpec, applied, edited_parameters
from sith_hf.errors import InputError
from sith_hf.images.model_variant import BASE, ModelVariant
from sith_hf.images.open_model import OpenModel
from sith_hf.images.processor import image_processor
from sith_hf.towers import LoadedModel, family_of, with_texts


def model_variants(
    editor: OpenModel, specs: Mapping[str, AnySpec | None], *, processor: Any | None = None
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
        ModelVariant(name, model, processor, projection, text=own_text(editor, model), device=editor.loaded.device)
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

    The weights of ``model`` never change, so that others may use it meanwhile.

    Raises:
        InputError, BaseMismatch: as :func:`sith_hf.edits.applied`; also for offloaded weights.
    """
    own = private_copy(model, spec)
    with applied(own, spec):
        return private_copy(own, spec)


def private_copy(model: Any, spec: AnySpec | None = None) -> Any:
    """Copy the modules of ``model``, without its weights: hooks and an edit of the copy do not reach ``model``.

    Args:
        model: a model in memory.
        spec: an edit; the copy has parameters of its own where the edit changes them, and shares all others.

    Raises:
        InputError: offloaded weights.
    """
    shared: dict[int, Any] = {}
    for parameter in model.parameters():
        if parameter.is_meta:
            raise InputError("the weights of this model are offloaded; load it without offloading to compare it")
        shared[id(parameter)] = parameter
    for parameter in [] if spec is None else edited_parameters(model, spec):
        shared.pop(id(parameter), None)
    # deepcopy reuses the objects in its memo.
    return copy.deepcopy(model, shared)


def text_model_of(editor: OpenModel) -> LoadedModel | None:
    """Return the model that encodes texts for the editor's model; None if it has none."""
    return with_texts(editor.companion, editor.loaded)


def own_text(editor: OpenModel, model: Any) -> LoadedModel | None:
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
