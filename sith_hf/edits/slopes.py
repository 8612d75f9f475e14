"""How a value of a model changes with the gain of each vector: one backward pass for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sith_hf.edits.in_memory import output_modules
from sith_hf.edits.spec import EditSpec


def gain_slopes(model: Any, spec: EditSpec, backward: Callable[[], object]) -> Tensor:
    """Return the derivative of a value with respect to the gain of each vector, float64 ``[N]``.

    A gain changes two tensors of its layer along one rank-one term (:class:`~sith_hf.edits.terms.Terms`), so its slope
    is the product of this term with the gradient of the tensors (Method, sec. 6). The derivative is taken at the
    weights that the model has now, which may be edited (:func:`sith_hf.edits.applied`).

    Args:
        model: a model with the tower of the vectors.
        spec: the N vectors; their gains do not matter.
        backward: runs the model and calls ``backward`` on the value, or on its parts one after the other.

    Raises:
        UnsupportedModel: the model does not have the tower.
    """
    modules = output_modules(model, spec)
    names = {layer: [name for name in ("weight", "bias") if _has(module, name)] for layer, module in modules.items()}
    parameters = [getattr(modules[layer], name) for layer, own in names.items() for name in own]
    with _only(model, parameters), torch.enable_grad():
        backward()
        gradient = {layer: {name: getattr(modules[layer], name).grad for name in own} for layer, own in names.items()}
        for parameter in parameters:
            parameter.grad = None
    slopes = torch.zeros(len(spec), dtype=torch.float64)
    for layer in spec.layers:
        here = spec.layer == layer
        columns, rows = spec.columns[here].double(), spec.row[here].double()
        weight, bias = gradient[layer]["weight"], gradient[layer].get("bias")
        if weight is None:  # nothing reads the layer
            continue
        reached = (columns @ weight.cpu().double()).unflatten(-1, (-1, rows.shape[1]))
        own = reached[torch.arange(len(rows)), spec.head[here]]
        slopes[here] = (own * rows).sum(dim=-1)
        if bias is not None:
            slopes[here] -= spec.constant[here].double() * (columns @ bias.cpu().double())
    return slopes


def _has(module: Any, name: str) -> bool:
    return getattr(module, name, None) is not None


@contextmanager
def _only(model: Any, parameters: list[Any]) -> Iterator[None]:
    """Make these parameters the only ones that need a gradient; all are as before at the end."""
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        yield
    finally:
        for parameter, needed, gradient in before:
            parameter.requires_grad_(needed)
            parameter.grad = gradient
