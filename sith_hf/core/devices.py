"""The device of a model, and the dtype of its weights, by the names that a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sith_hf.core.distributed import device_of_this_process, launched_world_size
from sith_hf.core.escaping import sanitize
from sith_hf.core.validation import did_you_mean
from sith_hf.errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
AUTO = "auto"


def available_devices() -> list[str]:
    """Return the names of the devices of this machine: ``cpu``, then ``cuda:0``, ``cuda:1``, ... or ``mps``."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    count = torch.accelerator.device_count()
    return ["cpu", *([f"{accelerator.type}:{n}" for n in range(count)] if accelerator.type != "mps" else ["mps"])]


def find_device(device: torch.device | str | None) -> torch.device | None:
    """Return a device of this machine; None for ``"auto"`` and None, which leave the choice to each step.

    Raises:
        InputError: no device of this machine, or a numbered one in a run of several processes, which have one each.
    """
    import torch

    if device is None or device == AUTO:
        return None
    known = available_devices()
    said = f"the devices of this machine are {', '.join(known)}"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        meant = did_you_mean(str(device), [*known, AUTO])
        raise InputError(f"{sanitize(str(device))} is no device{meant}: {said}") from None
    numbered = ":" in str(found)
    if str(found) not in known and (numbered or f"{found}:0" not in known):
        raise InputError(f"there is no device {found} here: {said}")
    if numbered and launched_world_size() > 1:
        raise InputError(f"device {found}: each process of a launcher has its own; name {found.type} without a number")
    return found


def find_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a dtype of weights; None for ``"auto"`` and None: that of the checkpoint. Raises InputError for others."""
    import torch

    if dtype is None or dtype == AUTO:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        names = ", ".join([AUTO, *DTYPES])
        raise InputError(f"{sanitize(name)} is no dtype of weights{did_you_mean(name, DTYPES)}: the dtypes are {names}")
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def pass_device(chosen: torch.device | None) -> torch.device:
    """Return where a model runs: the chosen device, or an accelerator of this process, or the CPU."""
    import torch
    from accelerate import PartialState

    # Without an accelerator, processes find each other only with cpu=True.
    own: torch.device = PartialState(cpu=not torch.accelerator.is_available()).device
    return own if chosen is None else chosen


def exact_device(chosen: torch.device | None) -> torch.device:
    """Return where sums in float64 are taken: as :func:`pass_device`, but never MPS, which has no float64."""
    import torch

    if chosen is None:
        return device_of_this_process()
    return torch.device("cpu") if chosen.type == "mps" else chosen
