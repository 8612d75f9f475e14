"""The two kinds of checkpoint folders, of transformers and of open_clip: the names of their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sith_hf.core.reading import json_fields


@dataclass(frozen=True)
class FolderFormat:
    """The files of one kind of checkpoint folder.

    Attributes:
        library: the library that loads it, as model cards name it.
        config: the file of its configuration.
        weights: the names of one file with all weights, the preferred one first.
        index: the index of weights in several files; None if its library reads one file only.
    """

    library: str
    config: str
    weights: tuple[str, ...]
    index: str | None = None

    def single(self, folder: Path) -> Path | None:
        """Return the file with all weights; None without one."""
        return next((folder / name for name in self.weights if (folder / name).is_file()), None)


TRANSFORMERS = FolderFormat("transformers", "config.json", ("model.safetensors",), "model.safetensors.index.json")
OPEN_CLIP = FolderFormat(
    "open_clip", "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
)


def folder_format(folder: Path) -> FolderFormat:
    """Return the kind of a folder: that of transformers wherever it has weights of transformers.

    Repositories on the Hub often hold both; a ``config.json`` without ``model_type`` is of timm, and its weights are a
    vision tower alone.
    """
    if not (folder / OPEN_CLIP.config).is_file():
        return TRANSFORMERS
    ours = isinstance(json_fields(folder / TRANSFORMERS.config).get("model_type"), str)
    if ours and (OPEN_CLIP.single(folder) is None or _has_weights(folder)):
        return TRANSFORMERS
    return OPEN_CLIP


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder has the configuration of a checkpoint."""
    return any((folder / kind.config).is_file() for kind in (TRANSFORMERS, OPEN_CLIP))


def _has_weights(folder: Path) -> bool:
    return TRANSFORMERS.single(folder) is not None or (folder / str(TRANSFORMERS.index)).is_file()
