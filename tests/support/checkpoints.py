"""Tiny checkpoints on disk and edits of them, each made once because saving is slow."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from transformers import CLIPProcessor

from sith_hf.checkpoint import save_edited
from sith_hf.edits import EditSpec
from tests.support.raw import random_spec, tree
from tests.support.tiny import byte_tokenizer, clip_model, image_processor, projected_vision_model, vision_model

MAKERS = {
    "CLIPModel": clip_model,
    "CLIPVisionModel": vision_model,
    "CLIPVisionModelWithProjection": projected_vision_model,
}


class Edited(NamedTuple):
    """A checkpoint, an edit of it (``random_spec``), and the edited checkpoint."""

    base: Path
    spec: EditSpec
    edited: Path


class Checkpoints:
    """Checkpoints by class, seed, dtype and shape on disk. Copy one before you change it: others read it too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._edited: dict[str, Edited] = {}
        self._files: dict[Path, dict[str, str]] = {}

    def base(self, kind: str = "CLIPModel", seed: int = 0, dtype: str = "float32", *, shards: bool = False) -> Path:
        """A checkpoint with its image processor and, for a ``CLIPModel``, its tokenizer; in several files if wanted."""
        folder = self.folder / f"{kind}-{seed}-{dtype}{'-shards' if shards else ''}" / "base"
        if folder not in self._files:
            model = MAKERS[kind](seed).to(getattr(torch, dtype))
            model.save_pretrained(folder, max_shard_size="40KB" if shards else "5GB")
            if kind == "CLIPModel":
                CLIPProcessor(image_processor(), byte_tokenizer(folder.parent / "bytes")).save_pretrained(folder)
            else:
                image_processor().save_pretrained(folder)
            self._files[folder] = tree(folder)
        return folder

    def edited(self, *base: object, **options: object) -> Edited:
        """A checkpoint as for :meth:`base`, with an edit."""
        folder = self.base(*base, **options)  # type: ignore[arg-type]
        if folder.parent.name not in self._edited:
            spec, output = random_spec(folder), folder.with_name("edited")
            save_edited(folder, spec, output)
            self._edited[folder.parent.name] = Edited(folder, spec, output)
            self._files[output] = tree(output)
        return self._edited[folder.parent.name]

    def changed(self) -> list[str]:
        """The folders that some test has written into."""
        return [str(folder) for folder, files in self._files.items() if tree(folder) != files]
