"""The pre-processing that a published checkpoint was trained with, where its config is known to name another."""

from __future__ import annotations

from typing import Any

# Mean and standard deviation of the pixels in training, by the checkpoint's name on the Hub without its owner.
TRAINED_WITH: dict[str, tuple[float, float]] = {"clip-vit-l-14-laion2b-s32b-b82k": (0.5, 0.5)}


def preprocessing_warning(name: str, processor: Any) -> str | None:
    """Return a line if an image processor does not normalise pixels as a checkpoint was trained, else None.

    Args:
        name: the checkpoint's Hub id or folder.
        processor: its image processor.
    """
    known = TRAINED_WITH.get(name.rstrip("/").rpartition("/")[2].casefold())
    if known is None:
        return None
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    wanted = [known[0]] * 3, [known[1]] * 3
    if (list(mean or []), list(std or [])) == wanted and getattr(processor, "do_normalize", True):
        return None
    return (
        f"Warning: {name} was trained on pixels with mean {known[0]:g} and std {known[1]:g}; its image processor has "
        f"{_short(mean)} and {_short(std)}. For the paper's figures set image_mean and image_std in a copy's config"
    )


def _short(values: Any) -> str:
    return "none" if not values else ", ".join(f"{value:.3g}" for value in values)
