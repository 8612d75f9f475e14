"""Editors and dictionaries over the tiny models of :mod:`tests.support.tiny`."""

import shutil
from pathlib import Path
from typing import Any

from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from tests.support.tiny import byte_tokenizer, clip_model

WORDS = (
    "beach", "Ocean", "forest", "snow", "desert", "red", "blue", "a green door", "violin", "bird", "car", "boat",
    "night sky", "seven", "wooden", "glass", "café", "zebra", "运动", "x-ray", "running", "stop sign", "fog", "bread",
    "kitchen", "portrait", "striped", "moon", "ice cream", "umbrella", "quiet", "JUMP", "oak tree", "wheel", "eye",
)  # fmt: skip


def tiny_editor(folder: Path, seed: int = 0, **vision: Any) -> SithEditor:
    """An editor of a random CLIPModel in memory, named ``tiny``; ``folder`` takes the tokenizer's files."""
    return SithEditor.from_model(clip_model(seed, **vision), byte_tokenizer(folder / "tokenizer"), name="tiny")


def tiny_concepts() -> ConceptDictionary:
    """A dictionary of WORDS, not encoded."""
    return ConceptDictionary.from_texts(WORDS)


def earlier_releases(edited: Path, base_card: bytes, folder: Path) -> dict[str, Path]:
    """The same edited checkpoint as earlier releases wrote it: on this machine, and in a repository on the Hub."""
    made = {kind: shutil.copytree(edited, folder / kind) for kind in ("saved", "published")}
    for place in made.values():
        shutil.rmtree(place / "sith" / "base", ignore_errors=True)
    (made["saved"] / "sith" / "edit_map.png").unlink()
    (made["saved"] / "README.md").write_bytes(base_card)
    (made["saved"] / "sith" / "README.md").write_text("# An edited CLIP vision tower\n")
    (made["published"] / "sith" / "base_card.md").write_bytes(base_card)
    return made
