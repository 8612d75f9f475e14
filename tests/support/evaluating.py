"""Small datasets and variants for evaluations: the red channel of a plain picture selects the class seen."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sith_hf.evaluation.texts import class_embeddings
from sith_hf.images.comparison import ModelVariant
from sith_hf.towers.loading import LoadedModel
from tests.support.tiny import byte_tokenizer, clip_model, image_processor

CLASSES = ("boat", "car", "camel")


def png(red: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> bytes:
    """A picture of one colour, as a file."""
    file = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).convert(mode).save(file, format="TIFF" if mode == "CMYK" else "PNG")
    return file.getvalue()


def dataset(reds: Sequence[int | bytes | None], **columns: Sequence[Any]) -> Any:
    """Pictures of one colour each (None for a missing one, bytes as they are) beside other columns."""
    from datasets import Dataset, Features, Image

    files = [png(red) if isinstance(red, int) else red for red in reds]
    rows = [None if file is None else {"bytes": file, "path": None} for file in files]
    others = Dataset.from_dict(dict(columns)).features if columns else {}
    return Dataset.from_dict({"image": rows, **columns}, features=Features({"image": Image(), **others}))


@dataclass(frozen=True, eq=False)
class Seer(ModelVariant):
    """A contender that sees the class ``choose(red)`` in a picture, red from 0 to 255.

    Attributes:
        table: ``[K, P]``, the embeddings of classes.
        choose: from red to a class.
    """

    table: Tensor | None = None
    choose: Callable[[int], int] = int

    def embed(self, pixels: Tensor) -> Tensor:
        mean, std = 0.48145466, 0.26862954  # of CLIP's processor, for red
        reds = ((pixels[:, 0, 8, 8] * std + mean) * 255).round().int().tolist()
        assert self.table is not None
        return self.table[[self.choose(red) for red in reds]]


def text_model(folder: Path) -> LoadedModel:
    """A tiny random text tower with its tokenizer."""
    return LoadedModel(clip_model(), byte_tokenizer(folder), "tiny", None)


def seers(text: LoadedModel, classes: Sequence[str] = CLASSES, **choose: Callable[[int], int]) -> tuple[Seer, ...]:
    """Contenders by name, each with what it sees."""
    table = torch.from_numpy(class_embeddings(text, classes, ("a photo of a {}",))).float()
    made = image_processor()
    return tuple(Seer(name, text.model, made, None, table, rule) for name, rule in choose.items())
