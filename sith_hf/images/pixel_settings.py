"""The settings of an image processor that decide the pixels that a model sees, as JSON values by name."""

from __future__ import annotations

import json
import re
from typing import Any

# A step, and the settings that matter only with it.
_STEPS = {
    "do_resize": ("size", "resample", "crop_pct"),
    "do_center_crop": ("crop_size",),
    "do_rescale": ("rescale_factor",),
    "do_normalize": ("image_mean", "image_std"),
    "do_pad": ("pad_size",),
}


def pixel_settings(processor: Any) -> dict[str, Any]:
    """Return the settings of an image processor by name, such as ``"image processor: size"``.

    The fast and the slow image processor of one checkpoint have equal settings.
    """
    processor = getattr(processor, "image_processor", processor)
    given = processor.to_dict() if hasattr(processor, "to_dict") else {}
    found: dict[str, Any] = {"type": re.sub("(Fast|Pil)$", "", type(processor).__name__)}
    for step, details in _STEPS.items():
        found[step] = bool(given.get(step))
        if found[step]:
            found |= {name: _plain(given.get(name)) for name in details}
    kept = {name: value for name, value in found.items() if value is not None}
    return {f"image processor: {name}": value for name, value in kept.items()}


def _plain(value: Any) -> Any:
    """Return the JSON form of a setting: sizes without empty sides, tuples as lists, enums as numbers."""
    if hasattr(value, "items"):
        return {key: int(side) for key, side in value.items() if side is not None}
    return json.loads(json.dumps(value, default=float))
