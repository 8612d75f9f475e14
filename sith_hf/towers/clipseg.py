"""The family CLIPSeg: CLIP's towers. The decoder of its segmentation reads some layers of the vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sith_hf.towers.clip import ClipFamily

_SEGMENTATION = "CLIPSegForImageSegmentation"


@dataclass(frozen=True)
class ClipSegFamily(ClipFamily):
    """CLIP's towers, in the segmentation model inside ``clip``; images of any size."""

    def inside(self, architecture: str) -> str:
        """Return the path of the module that holds towers and projections."""
        return "clip." if architecture == _SEGMENTATION else ""

    def partial(self, architecture: str, config: Any, kind: str) -> Mapping[int, str]:
        """Return the layers of the vision tower after the last that the decoder reads."""
        if architecture != _SEGMENTATION or kind != "vision":
            return {}
        count = config.vision_config.num_hidden_layers
        # CLIPSegForImageSegmentation.forward reads the hidden state n + 1 for each n: the output of layer n.
        last = max(config.extract_layers, default=-1)
        read = ", ".join(map(str, config.extract_layers))
        reason = (
            f"the decoder reads the layers {read} (extract_layers in config.json), so an edit of a later layer does "
            "nothing to a segmentation by a text; it changes image embeddings, and so segmentations by an image"
        )
        return dict.fromkeys(range(last + 1, count), reason)

    def image_size(self, model: Any) -> int | None:
        """Return None: the position embeddings are interpolated."""
        return None


CLIPSEG = ClipSegFamily(
    name="clipseg",
    model_types={
        "clipseg": ("CLIPSegModel", _SEGMENTATION),
        "clipseg_vision_model": ("CLIPSegVisionModel",),
        "clipseg_text_model": ("CLIPSegTextModel",),
    },
    kinds={
        "CLIPSegModel": ("vision", "text"),
        _SEGMENTATION: ("vision", "text"),
        "CLIPSegVisionModel": ("vision",),
        "CLIPSegTextModel": ("text",),
    },
    bare=frozenset({"CLIPSegVisionModel", "CLIPSegTextModel"}),
)
