"""The family Chinese-CLIP: CLIP's vision tower, and a BERT that encodes texts and that is not edited."""

from __future__ import annotations

from dataclasses import dataclass

from sith_hf.towers.clip import ClipFamily
from sith_hf.towers.text_tower import EncoderText


@dataclass(frozen=True)
class ChineseClipFamily(ClipFamily):
    """CLIP's vision tower, beside a BERT."""

    def has_text(self, architecture: str) -> bool:
        """Return whether the class has the text tower."""
        return architecture not in self.bare


CHINESE_CLIP = ChineseClipFamily(
    name="chinese_clip",
    model_types={"chinese_clip": ("ChineseCLIPModel",), "chinese_clip_vision_model": ("ChineseCLIPVisionModel",)},
    kinds={"ChineseCLIPModel": ("vision",), "ChineseCLIPVisionModel": ("vision",)},
    bare=frozenset({"ChineseCLIPVisionModel"}),
    example="OFA-Sys/chinese-clip-vit-base-patch16",
    texts=EncoderText,
)
