"""The mean image embedding of a dataset, summed in float64 over pieces that any number of processes shares."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sith_hf.core.devices import exact_device
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.validation import finite_number, whole_number
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.images.comparison import model_variants
from sith_hf.images.dataset_settings import DatasetSettings
from sith_hf.images.datasets import ImageDataset, open_dataset
from sith_hf.images.embed import counted_reasons, embed_batch, ready
from sith_hf.images.model_variant import BASE, ModelVariant
from sith_hf.images.open_model import OpenModel
from sith_hf.images.pieces import (
    Rows,
    as_tensor,
    described,
    fingerprint,
    hex_of,
    image_facts,
    missing_pieces,
    number_of,
)
from sith_hf.images.pixel_settings import pixel_settings
from sith_hf.images.processor import image_processor
from sith_hf.towers import ImageMean, family_of, read_image_mean, tower_tensors

# Batches in one piece, the most that is repeated after an interruption.
BATCHES = 16

# Length of an estimated mean: the best of 0.1, 0.2 ... 0.5 for the embedded checkpoint; all are better than no mean.
LENGTH = 0.3


def mean_of_images(
    editor: OpenModel,
    data: DatasetSettings,
    *,
    processor: Any | None = None,
    batch_size: int = 32,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> ImageMean:
    """Average the normalised image embeddings of a dataset (mu of Method, sec. 3).

    The pieces and batches are the same for any number of processes, so the result is bit-identical. Rows without a
    readable image are counted and left out.

    Args:
        editor: of the model.
        data: the images; ``columns.image`` names their column.
        processor: the image processor; the one in the checkpoint's folder when None.
        batch_size: images at a time.
        job: stores finished pieces and shares pieces between processes, all of which return the result.
        progress: show a bar on stderr.

    Raises:
        InputError: no rows, no readable image, a missing column, an embedding that is not finite, or images that
            differ from those before an interruption.
    """
    batch_size = whole_number(batch_size, "batch_size", 1)
    job = job or ResumableJob()
    _check_vision(editor)
    (variant,) = model_variants(editor, {BASE: None}, processor=processor)
    source, column = open_dataset(data, progress=progress and job.processes.is_main), data.columns.image
    source.check([column])
    base = vision_base(editor, pixel_settings(variant.processor))
    device = exact_device(variant.device)
    facts = {
        "images": image_facts(source),
        "weights": hashlib.sha256(json.dumps(base.sha256, sort_keys=True).encode()).hexdigest(),
        "settings of the model": dict(editor.tower.settings),
        "computed in": [str(next(editor.model.parameters()).dtype), device.type],
        "image processor": json.dumps(variant.processor.to_dict(), sort_keys=True, default=str),
        "batch size": [batch_size, BATCHES],
    }
    pieces: dict[str, Part] = {}
    with ready([variant], device), source.bar("averaging", progress and job.processes.is_main) as bar:

        def make(found: Mapping[str, Part]) -> Iterator[tuple[str, Part]]:
            for piece in missing_pieces(source, column, batch_size * BATCHES, job.processes, found):
                yield piece.name, _piece(variant, piece.rows, column, batch_size, device)

        for name, part in job.pieces("image-mean", facts, make):
            pieces[name] = part
            bar.update(int(part["rows"]))
    return _together(pieces, source, base, described(source))


def is_mean_of(found: ImageMean, editor: OpenModel, data: DatasetSettings) -> bool:
    """Return whether :func:`mean_of_images` with these arguments made ``found``.

    The images are read, and not embedded: ``datasets`` does not notice every change of a local file.

    Raises:
        InputError: as for :func:`sith_hf.images.open_dataset`.
    """
    base = vision_base(editor, pixel_settings(image_processor(editor.loaded, editor.companion)))
    source = open_dataset(data)
    if found.source != described(source) or found.base != base:
        return False
    column, total = data.columns.image, 0
    rows = source.read([], [column])
    while piece := list(islice(rows, BATCHES)):
        total += fingerprint(piece, column)
    return found.images_sha256 == hex_of(total)


def estimated_mean(editor: OpenModel, length: float = LENGTH) -> ImageMean:
    """Estimate the mean image embedding from the weights alone.

    The class token before the first layer is the same for every image. Its embedding, as if no layer added anything,
    points in about the direction of the mean. On the embedded checkpoint its cosine with the true mean is 0.8, and
    explanations share 2.7 of five concepts with those made with the true mean, against 1.7 without a mean
    (``benchmarks/image_mean.py``). It is untested on other checkpoints: if you have images, average them. No mean, true
    or estimated, made words truer there (docs/guide/image-mean.md).

    Args:
        editor: of the model.
        length: of the mean, above 0 and below 1; more diverse images have a shorter mean.

    Returns:
        a mean with ``count`` 0 whose ``source`` describes the estimate.

    Raises:
        InputError: a length out of range, no way to the joint space, or a tower without a class token.
    """
    if not 0 < finite_number(length, "the length of a mean, above 0 and below 1,") < 1:
        raise InputError(f"the length of a mean must be above 0 and below 1; got {length}")
    _check_vision(editor)
    token = _class_token(editor)
    direction = editor.tower.to_joint(token.cpu().double())
    return ImageMean(
        image_mean=direction * length,
        count=0,
        skipped={},
        base=vision_base(editor, {}),
        source={"estimate": "class token before the first layer", "length": length},
        images_sha256="",
    )


def _class_token(editor: OpenModel) -> Tensor:
    """Return the class token before the first layer, ``[D]``. Raises InputError for a tower without one."""
    found = family_of(editor.model).class_token(editor.model)
    if found is None:
        raise InputError(
            f"{editor.loaded.name} has no class token, from which a mean could be estimated: average images in place "
            "of it (mean_of_images, or sith-hf image-mean)"
        )
    return found


def mean_for(editor: OpenModel, path: str | Path) -> Tensor:
    """Read an image mean (:func:`sith_hf.towers.read_image_mean`) for the editor's model.

    Raises:
        InputError: there is no such file or tensor.
        BaseMismatch: it was made with other weights, or before a setting of the model or its image processor changed.
    """
    pixels: dict[str, Any] = {}
    with suppress(InputError):  # a model in memory, or a checkpoint without an image processor
        pixels = pixel_settings(image_processor(editor.loaded, editor.companion))
    _check_vision(editor)
    return read_image_mean(path, editor.tower, pixels)


def _check_vision(editor: OpenModel) -> None:
    """Raise InputError unless the editor is of a vision tower with a way to the joint space."""
    if editor.tower.kind != "vision":
        raise InputError(
            'an image mean belongs to a vision tower, and this editor is of the text tower: make it with tower="vision"'
        )
    editor.tower.readout()


def _together(
    pieces: Mapping[str, Part], source: ImageDataset, base: BaseRef, described: Mapping[str, Any]
) -> ImageMean:
    """Add up the pieces, in the order of their names."""
    if not pieces:
        raise InputError(f"{source.title} has no rows")
    parts = [pieces[name] for name in sorted(pieces)]
    skipped: Counter[str] = Counter()
    for part in parts:
        skipped.update(json.loads(part["skipped"].numpy().tobytes()))
    sums = [part["sum"] for part in parts if part["sum"].numel()]
    if not sums:
        raise InputError(f"{source.title}: no row has a readable image ({counted_reasons(skipped)})")
    total, count = sum(sums[1:], start=sums[0]), sum(int(part["count"]) for part in parts)
    if not torch.isfinite(total).all():
        raise InputError(f"{base.name}: image embeddings are not finite; check the weights")
    return ImageMean(
        image_mean=total / count,
        count=count,
        skipped=dict(sorted(skipped.items())),
        base=base,
        source=described,
        images_sha256=hex_of(sum(map(number_of, parts))),
    )


def _piece(variant: ModelVariant, rows: Rows, column: str, batch_size: int, device: torch.device) -> Part:
    skipped: Counter[str] = Counter()
    total, count = torch.zeros(0, dtype=torch.float64), 0
    images = fingerprint(rows, column)
    for start in range(0, len(rows), batch_size):
        found, broken, _ = embed_batch([variant], rows[start : start + batch_size], [column], device, "no")
        skipped.update(reason for reason in broken if reason is not None)
        if found[column].shape[1]:
            total = torch.from_numpy(found[column][0].astype(np.float64).sum(axis=0)) + (total if count else 0)
            count += found[column].shape[1]
    return {
        "sum": total,
        "count": torch.tensor(count),
        "rows": torch.tensor(len(rows)),
        "skipped": torch.frombuffer(bytearray(json.dumps(skipped, sort_keys=True).encode()), dtype=torch.uint8),
        "images": as_tensor(images),
    }


def vision_base(editor: OpenModel, pixels: Mapping[str, Any]) -> BaseRef:
    """Return the reference to the weights that embed an image, with fingerprints by name on disk.

    A tower without a way to the joint space embeds none: then it is the reference to the weights of the tower.

    ``pixels``: the settings of the image processor (:func:`sith_hf.images.pixel_settings.pixel_settings`).
    """
    tensors: dict[str, Tensor] = tower_tensors(family_of(editor.model), editor.model, "vision")
    ways = editor.tower.readouts if editor.tower.has_joint else ()
    tensors |= {name: tensor for way, _ in ways for name, tensor in way.tensors.items()}
    prints = {name: tensor_sha256(tensor) for name, tensor in sorted(tensors.items())}
    return BaseRef(editor.loaded.title, editor.loaded.revision, prints, {**editor.tower.settings, **pixels})
