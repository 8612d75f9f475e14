"""The names of the recipes that come with sith-hf, without reading one."""

from __future__ import annotations

from importlib.resources import files


def shipped_names() -> list[str]:
    """Return the names of the recipes that come with sith-hf; those of the paper are ``paper/NAME``."""
    root = files("sith_hf.recipes")
    here = [entry.name for entry in root.iterdir()]
    below = [f"paper/{entry.name}" for entry in (root / "paper").iterdir()] if (root / "paper").is_dir() else []
    return sorted(name.removesuffix(".yaml") for name in [*here, *below] if name.endswith(".yaml"))
