"""Embed the images of a dataset by all variants of a model, in one pass over the data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sith_hf.core.devices import pass_device
from sith_hf.core.fingerprint import texts_sha256
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.images.datasets import ImageDataset
from sith_hf.images.decode import decode_image
from sith_hf.images.model_variant import ModelVariant, embed_all
from sith_hf.images.pixels import BrokenImage
from sith_hf.images.rows_in_parts import BATCHES, CheckRow, RowsInParts, facts_of
from sith_hf.towers import evaluating

# With fewer images, no rank or correlation over images means anything.
LEAST_IMAGES = 32

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

_Batch = tuple[dict[str, NDArray[np.float32]], list[str | None], list[str]]


@short_repr
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
    check: CheckRow | None = None,
    batch_size: int = 32,
    precision: str = "no",
    job: ResumableJob | None = None,
    step: str = "embedding",
    progress: bool = False,
) -> EmbeddedRows:
    """Embed every image of a dataset by every variant. Rows with a broken image are counted and left out.

    The parts and batches are the same for any number of processes, so the result is bit-identical.

    Args:
        variants: C models with one image processor.
        source: the dataset.
        image_columns: its columns of images.
        columns: other columns to read.
        check: called with the other columns and the number of each row before the row is embedded; raises InputError.
        batch_size: rows at a time, in each process.
        precision: ``"no"`` for the checkpoint's own dtype, ``"bf16"`` or ``"fp16"`` for automatic mixed precision.
        job: stores finished parts and shares parts between processes, all of which return the result.
        step: the name of this pass in the job.
        progress: show a bar on stderr.

    Raises:
        InputError: no rows, no row with a readable image, missing columns, fp16 on a CPU, embeddings that are not
            finite, or images that differ from those before an interruption.
    """
    job, device = job or ResumableJob(), pass_device(variants[0].device)
    if precision == "fp16" and device.type == "cpu":
        raise InputError("precision fp16 needs a GPU; use bf16 or no")
    columns = [name for name in dict.fromkeys(columns) if name not in image_columns]
    source.check([*image_columns, *columns])

    def make(rows: Iterator[Mapping[str, Any]]) -> Part:
        batches = []
        while batch := list(islice(rows, batch_size)):
            batches.append(embed_batch(variants, batch, image_columns, device, precision))
            bar.update(len(batch))
        return _packed(batches, variants, image_columns)

    facts: dict[str, Any] = {}
    if job.folder is not None:
        batches = {"precision": precision, "device": device.type, "batch size": [batch_size, BATCHES]}
        facts = facts_of(variants, source, image_columns, **batches)
    pieces = RowsInParts(source, image_columns, columns, batch_size * BATCHES, make, check)
    parts, done = dict[str, Part](), 0
    shown = progress and job.processes.is_main
    with ready(variants, device), source.bar("embedding", shown) as bar:
        for name, part in pieces.made(job, step, facts):
            parts[name], done = part, done + int(part["rows"])
            bar.update(max(done - bar.n, 0))  # rows of other processes, or of an earlier run
    return _together([parts[name] for name in sorted(parts)], source, image_columns, pieces.values)


def _packed(batches: Sequence[_Batch], variants: Sequence[ModelVariant], image_columns: Sequence[str]) -> Part:
    """Return the part of some batches. Raises InputError for embeddings that are not finite."""
    reasons = [reason for _, known, _ in batches for reason in known]
    digests = bytes.fromhex("".join(digest for _, _, found in batches for digest in found))
    part = {
        "rows": torch.tensor(len(reasons)),
        "reasons": torch.frombuffer(bytearray(json.dumps(reasons).encode("ascii")), dtype=torch.uint8),
        "digests": torch.from_numpy(np.frombuffer(bytearray(digests), dtype=np.uint8).reshape(-1, 32)),
    }
    for place, name in enumerate(image_columns):
        arrays = [found[name] for found, _, _ in batches if found[name].shape[1]]
        joined = np.concatenate(arrays, axis=1) if arrays else np.zeros((len(variants), 0, 0), dtype=np.float32)
        for variant, own in zip(variants, joined, strict=True):
            if not np.isfinite(own).all():
                raise InputError(f"{variant.name}: embeddings of {name} are not finite; use precision no")
        part[f"images {place}"] = torch.from_numpy(joined)
    return part


def _together(
    parts: Sequence[Part], source: ImageDataset, image_columns: Sequence[str], read: Mapping[str, Sequence[Any]]
) -> EmbeddedRows:
    """Join the parts of a dataset, in the order of its rows; ``read`` has the other columns of all rows."""
    reasons = [reason for part in parts for reason in json.loads(part["reasons"].numpy().tobytes())]
    skipped = Counter(reason for reason in reasons if reason is not None)
    if not reasons:
        chosen = " with the values under where" if source.data.where else ""
        raise InputError(f"{source.title} has no rows{chosen}")
    if sum(skipped.values()) == len(reasons):
        raise InputError(
            f"{source.title}: none of {len(reasons)} rows has a readable image ({counted_reasons(skipped)})"
        )
    images = {}
    for place, name in enumerate(image_columns):
        arrays = [part[f"images {place}"].numpy() for part in parts if part[f"images {place}"].shape[1]]
        images[name] = np.concatenate(arrays, axis=1)
    rows = {name: list(zip(reasons, items, strict=True)) for name, items in read.items()}
    return EmbeddedRows(
        source,
        images,
        {name: tuple(item for reason, item in items if reason is None) for name, items in rows.items()},
        dict(sorted(skipped.items())),
        {name: tuple(item for reason, item in items if reason is not None) for name, items in rows.items()},
        tuple(row.tobytes().hex() for part in parts for row in part["digests"].numpy()),
    )


def embed_batch(
    variants: Sequence[ModelVariant],
    rows: Sequence[Mapping[str, Any]],
    image_columns: Sequence[str],
    device: torch.device,
    precision: str,
) -> _Batch:
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
