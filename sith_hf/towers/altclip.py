"""The family AltCLIP: CLIP's vision tower, and an XLM-RoBERTa that encodes texts and that is not edited."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sith_hf.towers.clip import ClipFamily
from sith_hf.towers.text_tower import EncoderText


@dataclass(frozen=True)
class AltClipFamily(ClipFamily):
    """CLIP's vision tower, beside a RoBERTa with a norm and a linear map of its own before the text projection."""

    def kept(self, architecture: str) -> str:
        """Return the vision tower of the whole model.

        transformers changes ``layer`` to ``layers`` in the text tower, and back again in both towers.
        """
        return "" if architecture in self.bare else "vision_model."

    def prefix(self, kind: str) -> str:
        """Return the beginning of a tower's names on disk; with ``layers``, where transformers 5 writes ``layer``."""
        return f"{super().prefix(kind)}.encoder.layers"

    def has_text(self, architecture: str) -> bool:
        """Return whether the class has the text tower."""
        return architecture not in self.bare


ALTCLIP = AltClipFamily(
    name="altclip",
    model_types={"altclip": ("AltCLIPModel",), "altclip_vision_model": ("AltCLIPVisionModel",)},
    kinds={"AltCLIPModel": ("vision",), "AltCLIPVisionModel": ("vision",)},
    bare=frozenset({"AltCLIPVisionModel"}),
    example="BAAI/AltCLIP",
    texts=partial(EncoderText, roberta=True),
)
