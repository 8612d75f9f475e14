"""Apply an edit to a model in memory, inside a ``with`` block."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.edits.spec import AnySpec, EditSpec
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.towers import check_parts, check_place, family_named, has_tower, loader, unwrapped


@contextmanager
def applied(model: Any, spec: AnySpec) -> Iterator[Any]:
    """Edit the tower of ``model``, or both, in place, and restore every byte on leaving, also after an exception.

    Parameters stay the same objects at the same addresses. Weights that ``accelerate`` offloaded are edited in the map
    that it loads them from. Call ``backward`` inside the block: autograd refuses weights that have changed since the
    forward pass.

    Args:
        model: a model with the towers of the edit, on any device, in any float
            dtype that holds its checkpoint's values exactly; it may be compiled or in ``DataParallel``.
        spec: an edit of this model.

    Yields:
        the same model object, edited with the bytes that :func:`sith_hf.checkpoint.save_edited` writes.

    Raises:
        BaseMismatch: the edit was made for other weights.
        UnsupportedModel: the model has no such tower, or one with adapters, parametrizations, quantized or
            replaced layers, or it does not read an edited layer.
        InputError: the spec is a revert, the edit overflows the dtype, or weights cannot be changed in place:
            shared between layers, or not in memory.
    """
    if spec.reverts:
        raise InputError("this spec removes an edit: apply the edit itself")
    if not spec.touched_keys <= set(spec.base.sha256):
        raise BaseMismatch("the edit lacks fingerprints of the weights that it changes: make it again")
    root = unwrapped(model)
    found = [(part, _places(root, part)) for part in spec.parts]
    with ExitStack() as undo:
        for part, places in found:
            _write(part, places, undo)
        yield model


def edited_parameters(model: Any, spec: AnySpec) -> list[Tensor]:
    """Return the parameters of ``model`` that ``spec`` changes.

    Raises:
        UnsupportedModel: the model does not have a tower of the edit.
    """
    root = unwrapped(model)
    modules = [root.get_submodule(path) for part in spec.parts for path in _modules(root, part, check=False).values()]
    return [parameter for module in modules for parameter in module.parameters()]


def output_modules(model: Any, spec: EditSpec) -> dict[int, Any]:
    """Return the output projection of each layer of an edit. Raises UnsupportedModel if there is no such."""
    root = unwrapped(model)
    return {layer: root.get_submodule(path) for layer, path in _modules(root, spec).items()}


def _modules(root: Any, spec: EditSpec, *, check: bool = True) -> dict[int, str]:
    """Return the path of the output projection of each edited layer. Raises UnsupportedModel if there is no such."""
    family = family_named(spec.place.family)
    try:
        if not has_tower(root, family, spec.tower):
            raise AttributeError
        tower, path = family.locate(root, spec.tower)
        paths = family.outputs(tower)
        if check:
            # Hooks may watch an edit, and do not change what it is made of.
            check_parts(tower, {path: tower}, hooks=False)
    except (AttributeError, TypeError):
        raise UnsupportedModel(
            f"a {type(root).__name__} does not have {spec.place.title}, which the edit is of: pass a model that has"
        ) from None
    if check:
        check_place(spec.place.family, spec.tower, spec.layers, root.config)
    return {n: f"{path}.{paths[n]}" if path else paths[n] for n in spec.layers if n < len(paths)}


def _places(root: Any, spec: EditSpec) -> dict[str, _Place]:
    """Return the parameters that an edit of one tower changes, by name on disk.

    Raises:
        BaseMismatch, UnsupportedModel, InputError: as for :func:`applied`.
    """
    modules = _modules(root, spec)
    for number, path in modules.items():
        if (getattr(root.get_submodule(path), "bias", None) is None) != (spec.place.names(number)[1] is None):
            raise BaseMismatch(f"{path} has a bias in only one of this model and the edit: make the edit again")
    places = {
        name: _find(root, path, part)
        for number, path in modules.items()
        for part, name in zip(("weight", "bias"), spec.place.names(number), strict=True)
        if name is not None
    }
    dtype = next(root.parameters()).dtype
    where = (
        f"this model, loaded as {dtype} (it must be the checkpoint's own dtype, or a wider one: dtype=torch.float32)"
    )
    found = {key: tensor_sha256(place.read()) for key, place in places.items()}
    settings = family_named(spec.place.family).settings(root.config, spec.tower)
    spec.base.only(spec.touched_keys).check(found, where, settings)
    return places


def _write(spec: EditSpec, places: Mapping[str, _Place], undo: ExitStack) -> None:
    """Write the edit of one tower. Raises InputError for an edit that overflows."""
    for number in spec.layers:
        keys = spec.place.names(number)
        values = spec.apply(number, places[keys[0]].read(), None if keys[1] is None else places[keys[1]].read())
        for key, new in zip(keys, values, strict=True):
            if key is None or new is None:
                continue
            if not torch.isfinite(new).all():
                raise InputError(f"{key} would overflow {new.dtype}: use smaller gains, or a float32 model")
            places[key].write(new, undo)


@dataclass(frozen=True)
class _Place:
    """The storage of one parameter.

    Attributes:
        parameter: the model's parameter.
        hook: the hook that loads it from its ``weights_map`` before use; None if the parameter holds the values.
        name: the name in that map.
    """

    parameter: Tensor
    hook: Any | None
    name: str

    def read(self) -> Tensor:
        """Return the values on the CPU, so that sums round as they do in a checkpoint."""
        tensor: Tensor = self.parameter if self.hook is None else self.hook.weights_map[self.name]
        return tensor.detach().cpu()

    def write(self, new: Tensor, undo: ExitStack) -> None:
        """Store ``new``; ``undo`` restores the old bytes."""
        if self.hook is None:
            undo.callback(_copy, self.parameter, self.parameter.detach().clone())
            _copy(self.parameter, new)
        else:
            undo.callback(setattr, self.hook, "weights_map", self.hook.weights_map)
            self.hook.weights_map = ChainMap({self.name: new}, self.hook.weights_map)


def _copy(parameter: Tensor, values: Tensor) -> None:
    # A model made in inference mode can only be changed in that mode.
    with torch.inference_mode(parameter.is_inference()), torch.no_grad():
        parameter.copy_(values)


def _find(root: Any, path: str, name: str) -> _Place:
    """Find the storage of parameter ``name`` of the module at ``path``."""
    parameter = getattr(root.get_submodule(path), name)
    if not parameter.is_meta:
        everywhere = [p for module in root.modules() for p in module.parameters(recurse=False)]
        if sum(type(p.data) is Tensor and p.data_ptr() == parameter.data_ptr() for p in everywhere) > 1:
            raise InputError(
                f"{path}.{name} is shared with another layer, which the edit would also change: load the model again"
            )
        return _Place(parameter, None, name)
    return _Place(parameter, *loader(root, f"{path}.{name}"))
