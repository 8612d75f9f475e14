"""``HeldRows``: rows of a dataset in memory, with what enters the first layer that edits change.

Each further edit of the last layers then costs these layers only, and no decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.images.datasets import ImageDataset
from sith_hf.images.embed import EmbeddedRows, counted_reasons, decoded_batch, pixel_values
from sith_hf.images.model_variant import ModelVariant, layers_of, replaced


@dataclass(frozen=True, eq=False)
class HeldRows:
    """The N rows of a dataset whose images could be decoded, ready for one model under many edits.

    Attributes:
        variant: the model that is edited in place.
        rows: the rows, with the embeddings by the model without an edit, of one variant.
        depth: the number of first layers that no edit changes.
        batches: image column to its batches: pixel values, and the output of layer ``depth - 1``. With a depth above 0,
            pixel values are zeros without memory of their own.
    """

    variant: ModelVariant
    rows: EmbeddedRows
    depth: int
    batches: Mapping[str, tuple[tuple[Tensor, Any], ...]] = field(repr=False)

    def stream(self, column: str) -> Iterator[Tensor]:
        """Yield normalised embeddings of each batch by the model as it is now, float32 ``[B, P]``, on its device.

        They are bit-identical to those of a whole forward pass. Autograd follows, unless it is off.
        """
        lower = layers_of(self.variant.model)[: self.depth]
        for pixels, entering in self.batches[column]:
            with replaced(lower, entering):
                embedded = self.variant.embed(pixels)
            yield embedded

    def embed(self, column: str) -> Tensor:
        """Return the embeddings of all rows by the model as it is now, float32 ``[N, P]``, without a gradient."""
        with torch.no_grad():
            return torch.cat(list(self.stream(column)))


def hold_rows(
    variant: ModelVariant,
    source: ImageDataset,
    image_columns: Sequence[str],
    columns: Sequence[str],
    depth: int,
    *,
    check: Callable[[Mapping[str, Any], int], None] | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> HeldRows:
    """Read the rows of a dataset, embed their images, and keep what the first layers return.

    Each process of a job reads all rows. A broken image leaves its row out.

    Args:
        variant: the model, on its device and in evaluation mode (:func:`sith_hf.images.ready`).
        source: the dataset.
        image_columns, columns, check, batch_size, progress: as for :func:`sith_hf.images.embed_rows`.
        depth: the number of first layers that no edit changes.

    Raises:
        InputError: no row with a readable image, missing columns, or embeddings that are not finite.
    """
    columns = [name for name in dict.fromkeys(columns) if name not in image_columns]
    source.check([*image_columns, *columns])
    depth = min(depth, len(layers_of(variant.model)))  # an attention-pooling head counts as a layer, too
    batches: dict[str, list[tuple[Tensor, Any]]] = {name: [] for name in image_columns}
    values: dict[str, list[Any]] = {name: [] for name in columns}
    left_out: dict[str, list[Any]] = {name: [] for name in columns}
    digests: list[str] = []
    skipped: Counter[str] = Counter()
    rows, seen = source.read(columns, image_columns), 0
    with source.bar("reading", progress) as bar:
        while batch := list(islice(rows, batch_size)):
            for number, row in enumerate(batch, seen):
                if check is not None:
                    check(row, number)
            seen += len(batch)
            decoded, reasons, added = decoded_batch(batch, image_columns)
            digests += added
            skipped.update(reason for reason in reasons if reason is not None)
            for row, reason in zip(batch, reasons, strict=True):
                for name in columns:
                    (values if reason is None else left_out)[name].append(row[name])
            for name, pictures in decoded.items():
                if pictures:
                    batches[name].append(_entering(variant, pixel_values(variant, pictures), depth))
            bar.update(len(batch))
    if not seen:
        chosen = " with the values under where" if source.data.where else ""
        raise InputError(f"{source.title} has no rows{chosen}")
    if not digests:
        raise InputError(f"{source.title}: none of {seen} rows has a readable image ({counted_reasons(skipped)})")
    kept = EmbeddedRows(
        source,
        {},
        {name: tuple(items) for name, items in values.items()},
        dict(sorted(skipped.items())),
        {name: tuple(items) for name, items in left_out.items()},
        tuple(digests),
    )
    held = HeldRows(variant, kept, depth, {name: tuple(items) for name, items in batches.items()})
    images = {name: held.embed(name).cpu().numpy()[None] for name in image_columns}
    if any(not torch.from_numpy(array).isfinite().all() for array in images.values()):
        raise InputError(f"{source.title}: embeddings are not finite; load the model in float32")
    return replace(held, rows=replace(kept, images=images))


def _entering(variant: ModelVariant, pixels: Tensor, depth: int) -> tuple[Tensor, Any]:
    """Return one batch of :class:`HeldRows`."""
    pixels = pixels.to(next(variant.model.parameters()).device)
    if not depth:
        return pixels, None
    kept: list[Any] = []
    hook = layers_of(variant.model)[depth - 1].register_forward_hook(lambda _, inputs, output: kept.append(output))
    try:
        with torch.no_grad():
            variant.embed(pixels)
    finally:
        hook.remove()
    return pixels.new_zeros(()).expand(pixels.shape), kept[0]
