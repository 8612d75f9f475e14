"""Embed the images of a dataset by all variants of a model, in one pass over the data."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sith_hf.core.fingerprint import texts_sha256
from sith_hf.errors import InputError
from sith_hf.images.datasets import ImageDataset
from sith_hf.images.decode import decode_image
from sith_hf.images.model_variant import ModelVariant, embed_all
from sith_hf.images.pixels import BrokenImage
from sith_hf.towers import evaluating

# With fewer images, no rank or correlation over images means anything.
LEAST_IMAGES = 32

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_Part = tuple[dict[str, NDArray[np.float32]], list[str | None], list[str]]


@dataclass(frozen=True, eq=False)
class EmbeddedRows:
    """The N rows of a dataset whose images could be decoded, in order.

    Attributes:
        source: the dataset.
        images: image column to normalised embeddings by C variants, float32 ``[C, N, P]``.
        values: every other column to its N values.
        skipped: reason to the number of rows left out.
        left_out: every other column to its values in the rows left out.
        digests: N sha256 of each row's images, as pixels.
    """

    source: ImageDataset
    images: Mapping[str, NDArray[np.float32]]
    values: Mapping[str, tuple[Any, ...]]
    skipped: Mapping[str, int]
    left_out: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    digests: tuple[str, ...] = ()

    def sha256(self, columns: Iterable[str]) -> str:
        """Return the fingerprint of images and the values of ``columns``, independent of the order of rows."""
        rows = zip(self.digests, *(map(repr, self.values[name]) for name in columns), strict=True)
        return texts_sha256(sorted("\t".join(row) for row in rows))

    def __len__(self) -> int:
        return int(next(iter(self.images.values())).shape[1])

    def keep(self, wanted: Sequence[bool], reason: str) -> EmbeddedRows:
        """Return the rows that are ``wanted``; the others are counted under ``reason``."""
        if all(wanted):
            return self
        chosen = np.flatnonzero(wanted)
        return replace(
            self,
            images={name: array[:, chosen] for name, array in self.images.items()},
            values={name: tuple(items[i] for i in chosen) for name, items in self.values.items()},
            skipped=dict(sorted({**self.skipped, reason: len(wanted) - len(chosen)}.items())),
            left_out={
                name: (*self.left_out[name], *(x for x, kept in zip(items, wanted, strict=True) if not kept))
                for name, items in self.values.items()
            },
            digests=tuple(self.digests[i] for i in chosen),
        )


def embed_rows(
    variants: Sequence[ModelVariant],
    source: ImageDataset,
    image_columns: Sequence[str],
    columns: Sequence[str],
    *,
    check: Callable[[Mapping[str, Any], int], None] | None = None,
    batch_size: int = 32,
    precision: str = "no",
    progress: bool = False,
) -> EmbeddedRows:
    """Embed every image of a dataset by every variant. Rows with a broken image are counted and left out.

    Under ``accelerate launch`` or ``torchrun`` each process embeds its part of every batch, and every process returns
    the whole result in the order of the rows.

    Args:
        variants: C models with one image processor.
        source: the dataset.
        image_columns: its columns of images.
        columns: other columns to read.
        check: called with the other columns and the number of each row before the row is embedded; raises InputError.
        batch_size: rows at a time, in each process.
        precision: ``"no"`` for the checkpoint's own dtype, ``"bf16"`` or ``"fp16"`` for automatic mixed precision.
        progress: show a bar on stderr.

    Raises:
        InputError: no rows, no row with a readable image, missing columns, fp16 on a CPU, or embeddings that are not
            finite.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    # Without an accelerator, processes find each other only with cpu=True.
    state = PartialState(cpu=not torch.accelerator.is_available())
    if precision == "fp16" and state.device.type == "cpu":
        raise InputError("precision fp16 needs a GPU; use bf16 or no")
    columns = [name for name in dict.fromkeys(columns) if name not in image_columns]
    source.check([*image_columns, *columns])
    if check is not None and not source.data.streaming and columns:
        # Fail before hours of work. A second reading of the other columns costs little, except in a stream.
        for number, row in enumerate(source.read(columns)):
            check(row, number)

    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in image_columns}
    values: dict[str, list[Any]] = {name: [] for name in columns}
    left_out: dict[str, list[Any]] = {name: [] for name in columns}
    digests: list[str] = []
    skipped: Counter[str] = Counter()
    rows, seen = source.read(columns, image_columns), 0
    with ready(variants, state.device), source.bar("embedding", progress and state.is_main_process) as bar:
        while batch := list(islice(rows, batch_size * state.num_processes)):
            if check is not None:
                for number, row in enumerate(batch, seen):
                    check(row, number)
            seen += len(batch)
            mine = batch[state.process_index * batch_size : (state.process_index + 1) * batch_size]
            part = embed_batch(variants, mine, image_columns, state.device, precision)
            if state.num_processes > 1:
                part = _gathered(gather_object([part]), image_columns)
            found, reasons, added = part
            digests += added
            for row, reason in zip(batch, reasons, strict=True):
                if reason is not None:
                    skipped[reason] += 1
                for name in columns:
                    (values if reason is None else left_out)[name].append(row[name])
            for name in image_columns:
                if found[name].shape[1]:
                    parts[name].append(found[name])
            bar.update(len(batch))
    if not seen:
        chosen = " with the values under where" if source.data.where else ""
        raise InputError(f"{source.title} has no rows{chosen}")
    if sum(skipped.values()) == seen:
        raise InputError(f"{source.title}: none of {seen} rows has a readable image ({counted_reasons(skipped)})")
    images = {name: np.concatenate(found, axis=1) for name, found in parts.items()}
    for name, array in images.items():
        for number, variant in enumerate(variants):
            if not np.isfinite(array[number]).all():
                raise InputError(f"{variant.name}: embeddings of {name} are not finite; use precision no")
    return EmbeddedRows(
        source,
        images,
        {name: tuple(items) for name, items in values.items()},
        dict(sorted(skipped.items())),
        {name: tuple(items) for name, items in left_out.items()},
        tuple(digests),
    )


def embed_batch(
    variants: Sequence[ModelVariant],
    rows: Sequence[Mapping[str, Any]],
    image_columns: Sequence[str],
    device: torch.device,
    precision: str,
) -> _Part:
    """Embed one batch, inside :func:`ready`.

    Returns:
        image column to embeddings ``[C, n, P]`` of the n readable rows; for every row None, or the reason why its
        images cannot be decoded; n digests.
    """
    decoded, reasons, digests = decoded_batch(rows, image_columns)
    found = {name: np.zeros((len(variants), 0, 0), dtype=np.float32) for name in image_columns}
    half = nullcontext() if precision == "no" else torch.autocast(device.type, dtype=_DTYPES[precision])
    for name, items in decoded.items():
        if items:
            pixels = pixel_values(variants[0], items).to(device)
            with torch.inference_mode(), half:
                embedded = [own.float().cpu() for own in embed_all(variants, pixels)]
            found[name] = torch.stack(embedded).numpy()
    return found, reasons, digests


def decoded_batch(
    rows: Sequence[Mapping[str, Any]], image_columns: Sequence[str]
) -> tuple[dict[str, list[Any]], list[str | None], list[str]]:
    """Decode the images of one batch; return the pictures of each column, and the rest as :func:`embed_batch`."""
    digests: list[str] = []
    decoded: dict[str, list[Any]] = {name: [] for name in image_columns}
    reasons: list[str | None] = []
    for row in rows:
        try:
            made = [decode_image(row[name]) for name in image_columns]
        except BrokenImage as error:
            reasons.append(str(error))
            continue
        reasons.append(None)
        seen = hashlib.sha256()
        for name, picture in zip(image_columns, made, strict=True):
            decoded[name].append(picture)
            seen.update(f"{picture.size}".encode() + picture.tobytes())
        digests.append(seen.hexdigest())
    return decoded, reasons, digests


def pixel_values(variant: ModelVariant, pictures: list[Any]) -> torch.Tensor:
    """Return what a model takes of decoded pictures, ``[B, 3, S, S]`` on the CPU.

    Raises:
        InputError: the image processor returns images of another size than the model takes.
    """
    pixels: torch.Tensor = variant.processor(images=pictures, return_tensors="pt")["pixel_values"]
    side = variant.image_size
    wanted = [3, *pixels.shape[2:]] if side is None else [3, side, side]
    if list(pixels.shape[1:]) != wanted:
        raise InputError(
            f"the image processor returns images of {list(pixels.shape[1:])}, the model expects {wanted}: "
            "the settings of the image processor belong to another model"
        )
    return pixels


def _gathered(results: list[_Part], image_columns: Sequence[str]) -> _Part:
    """Join the parts of all processes."""
    found = {}
    for name in image_columns:
        arrays = [part[name] for part, _, _ in results if part[name].shape[1]]
        found[name] = np.concatenate(arrays, axis=1) if arrays else results[0][0][name]
    reasons = [reason for _, reasons, _ in results for reason in reasons]
    return found, reasons, [digest for _, _, digests in results for digest in digests]


@contextmanager
def ready(variants: Sequence[ModelVariant], device: torch.device) -> Iterator[None]:
    """Move models to the device in evaluation mode; on exit each returns to its mode and device."""
    models = [variant.model for variant in variants]
    # Read before any model moves: they share parameters.
    homes = [next(model.parameters()).device for model in models]
    with evaluating(*models):
        try:
            for model in models:
                model.to(device)
            yield
        finally:
            for model, home in zip(models, homes, strict=True):
                model.to(home)


def check_count(count: int, title: str, skipped: Mapping[str, int]) -> None:
    """Raise InputError if a dataset has no readable image, or too few to measure anything with (``LEAST_IMAGES``)."""
    reasons = f" ({counted_reasons(skipped)})" if skipped else ""
    if not count:
        raise InputError(f"{title}: no row has a readable image{reasons}")
    if count < LEAST_IMAGES:
        raise InputError(
            f"{title} has {count} readable images{reasons}, and at least {LEAST_IMAGES} are needed: name more images"
        )


def counted_reasons(skipped: Mapping[str, int]) -> str:
    """Format the reasons why rows were left out, with counts."""
    return ", ".join(f"{count}: {reason}" for reason, count in sorted(skipped.items()))
