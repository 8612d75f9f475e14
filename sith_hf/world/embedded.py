"""The embedded checkpoint: a small CLIP of a drawn world, inside the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from sith_hf.errors import InputError

# Its name in recipes and artifacts.
EMBEDDED = "embedded"


def embedded_checkpoint() -> Path:
    """Return the folder of the embedded checkpoint. Raises InputError if the installation lacks it."""
    with as_file(files("sith_hf.demo") / "checkpoint") as path:
        if not (path / "model.safetensors").is_file():
            raise InputError(f"{path} has no embedded checkpoint; install sith-hf again")
        return path
