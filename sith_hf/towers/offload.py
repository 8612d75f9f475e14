"""Where the values of a parameter are when ``accelerate`` has offloaded it, to memory or to disk."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sith_hf.errors import InputError


def loader(model: Any, path: str) -> tuple[Any, str]:
    """What loads an offloaded parameter before it is used: a hook with a ``weights_map``, and the name there.

    Args:
        model: the model, or the outermost part of it that is at hand.
        path: the parameter's name in it.

    Raises:
        InputError: nothing loads it; it has no values.
    """
    parts = path.split(".")
    # The hook sits on the parameter's own module, or on one around it that is loaded as a whole.
    for depth in reversed(range(len(parts))):
        hook = getattr(model.get_submodule(".".join(parts[:depth])), "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            name = ".".join(parts[depth:])
            offloaded = getattr(one, "weights_map", None) if getattr(one, "offload", False) else None
            if offloaded is not None and name in offloaded:
                return one, name
    raise InputError(f"{path} is on the meta device, without values: load the model with its weights")


def values(model: Any, path: str, parameter: Tensor) -> Tensor:
    """The parameter at ``path`` itself, or the tensor that stands in for it while the model runs."""
    if not parameter.is_meta:
        return parameter
    hook, name = loader(model, path)
    tensor: Tensor = hook.weights_map[name]
    return tensor
