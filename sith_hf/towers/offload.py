"""Parameters that ``accelerate`` has offloaded to memory or disk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sith_hf.errors import InputError


def loader(model: Any, path: str) -> tuple[Any, str]:
    """Return the hook with a ``weights_map`` that loads an offloaded parameter, and the name in that map.

    Args:
        model: the model or the outermost available module of it.
        path: the parameter's name in it.

    Raises:
        InputError: no hook loads it, so it has no values.
    """
    parts = path.split(".")
    # The hook is on the parameter's module, or on a parent that is loaded as a whole.
    for depth in reversed(range(len(parts))):
        hook = getattr(model.get_submodule(".".join(parts[:depth])), "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            name = ".".join(parts[depth:])
            offloaded = getattr(one, "weights_map", None) if getattr(one, "offload", False) else None
            if offloaded is not None and name in offloaded:
                return one, name
    raise InputError(f"{path} is on the meta device, without values: load the model with its weights")


def values(model: Any, path: str, parameter: Tensor, name_on_disk: str) -> Tensor:
    """Return the parameter at ``path``, or its offloaded values. Raises InputError if one is not finite."""
    if parameter.is_meta:
        hook, name = loader(model, path)
        parameter = hook.weights_map[name]
    if not torch.isfinite(parameter).all():
        raise InputError(f"{name_on_disk} holds NaN or infinity: the checkpoint is damaged, download it again")
    return parameter.detach()
