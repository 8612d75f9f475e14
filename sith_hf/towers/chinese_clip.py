"""The family Chinese-CLIP: CLIP's vision tower, and a BERT that encodes texts and that is not edited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sith_hf.towers.clip import ClipFamily
from sith_hf.towers.text_tower import EncoderText, TextTower


@dataclass(frozen=True)
class ChineseClipFamily(ClipFamily):
    """CLIP's vision tower, beside a BERT."""

    def has_text(self, architecture: str) -> bool:
        """Return whether the class has the text tower."""
        return architecture not in self.bare

    def text(self, model: Any) -> TextTower | None:
        """Return the text tower with its projection."""
        return EncoderText(model, model.text_model, model.text_projection) if hasattr(model, "text_model") else None


CHINESE_CLIP = ChineseClipFamily(
    name="chinese_clip",
    model_types={"chinese_clip": ("ChineseCLIPModel",), "chinese_clip_vision_model": ("ChineseCLIPVisionModel",)},
    kinds={"ChineseCLIPModel": ("vision",), "ChineseCLIPVisionModel": ("vision",)},
    bare=frozenset({"ChineseCLIPVisionModel"}),
)
