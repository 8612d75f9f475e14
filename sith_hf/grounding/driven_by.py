"""What drives singular vectors: concepts whose similarity to images goes with their coefficients (Method, sec. 8)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.devices import exact_device
from sith_hf.core.validation import whole_number
from sith_hf.decomposition import Decomposition, Drivers, adjusted
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.grounding.coefficients import read_where, reading_coefficients
from sith_hf.grounding.moments import Moments
from sith_hf.images import (
    BASE,
    ImageDataset,
    Images,
    ModelVariant,
    OpenModel,
    as_tensor,
    check_count,
    described,
    embed_batch,
    fingerprint,
    hex_of,
    image_dataset,
    image_facts,
    in_order,
    missing_pieces,
    model_variants,
    number_of,
    pixel_settings,
    ready,
    vision_base,
)
from sith_hf.pursuit import blocks

BATCHES = 16
"""Batches in one piece, the most that is repeated after an interruption."""

FDR = 0.05
"""The false discovery rate, over poles, at which a pole names what drives it."""

# Vectors whose correlations with a block of concepts are in memory at once.
_ROWS = 2048


def driven_by(
    editor: OpenModel,
    decomposition: Decomposition,
    concepts: ConceptDictionary,
    images: Images = None,
    *,
    most: int = 5,
    processor: Any | None = None,
    batch_size: int = 32,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> Drivers:
    """Find the concepts that drive each pole: their similarity to images goes with the pole's coefficient.

    For every concept, the similarity of its text embedding to the embedding of an image is correlated, over images,
    with the coefficient of the vector (:func:`sith_hf.grounding.reading_coefficients`). The concepts of the highest
    correlations drive the pole ``+``; those of the lowest, with the sign changed, the pole ``-``. No labels are needed:
    a few hundred images suffice, and drawn leaves find most of it.

    Only concepts beyond chance are named: the p-value of a correlation under independence (Fisher's z transform), times
    the number of concepts, must pass a false discovery rate of 0.05 over all poles (Benjamini-Hochberg). So a pole
    may stay silent, and does if no image shows what drives it, or all images are the same.

    Images are read in one pass in bounded memory: only sums are kept, whatever the number of images.

    Args:
        editor: of the model, with the vision tower that was decomposed.
        decomposition: the singular vectors.
        concepts: M concepts, encoded by the model's text tower.
        images: a dataset of at least 32 images, opened or its settings; its folder, file or Hub id; 1,000 drawn leaves
            when None.
        most: K, the largest number of concepts for each pole.
        processor: the image processor; the one in the checkpoint's folder when None.
        batch_size: images at a time.
        job: stores finished pieces and shares pieces between processes, all of which return the result.
        progress: show a bar on stderr.

    Raises:
        InputError: fewer than 32 readable images, a text tower, a model that embeds no images, concepts that are not
            encoded, a missing column, an embedding that is not finite, or images that differ from those before an
            interruption.
        BaseMismatch: the decomposition was made from other weights.
    """
    decomposition.require_words()
    most = whole_number(most, "most", 1)
    sums, record = _measure(editor, decomposition, images, processor, batch_size, job or ResumableJob(), progress)
    values, index = _highest(sums, concepts, min(most, len(concepts)), len(decomposition.poles))
    named = beyond_chance(values, int(sums.count), len(concepts))
    shape = (*decomposition.fidelity.shape, -1)
    values, index = torch.where(named, values, 0).float(), torch.where(named, index, -1)
    used = sorted(set(index[named].tolist()), key=lambda i: (concepts.texts[i], i))
    renumbered = torch.full((len(concepts) + 1,), -1)
    renumbered[used] = torch.arange(len(used))
    where = {layer: read_where(editor.model, editor.tower, layer) for layer in decomposition.layers}
    return Drivers(
        concept=renumbered[index].reshape(shape),
        correlation=values.reshape(shape),
        texts=tuple(concepts.texts[i] for i in used),
        images={**record, "read_at": {str(layer): name for layer, name in where.items()}},
    )


def is_driven_by(found: Drivers, images: Images = None) -> bool:
    """Return whether :func:`driven_by` measured ``found`` on these images, which are read, and not embedded.

    Raises:
        InputError: as for :func:`sith_hf.images.image_dataset`.
    """
    source, total = image_dataset(images), 0
    column = source.data.columns.image
    if any(found.images.get(name) != value for name, value in described(source).items()):
        return False
    rows = source.read([], [column])
    while piece := list(islice(rows, BATCHES)):
        total += fingerprint(piece, column)
    return found.images.get("images_sha256") == hex_of(total)


def beyond_chance(correlation: Tensor, images: int, concepts: int, fdr: float = FDR) -> Tensor:
    """Return which of the highest correlations of each pole are beyond chance.

    Args:
        correlation: ``[N, K]``, descending, each the highest of M concepts or one of the next.
        images: their number, at least 4.
        concepts: M.
        fdr: the false discovery rate over the N poles.

    Returns:
        ``[N, K]`` bool, a prefix of each row.
    """
    z = torch.atanh(correlation.double().clamp(-1 + 1e-15, 1 - 1e-15)) * (images - 3) ** 0.5
    p = (torch.special.erfc(z / 2**0.5) / 2 * concepts).clamp(max=1)
    first = p[:, 0]
    significant: Tensor = adjusted(first) <= fdr
    # The largest p-value among the poles that pass is the threshold for their other concepts.
    limit = first[significant].max() if bool(significant.any()) else first.new_tensor(-1.0)
    named: Tensor = significant.unsqueeze(-1) & (p <= limit) & (correlation > 0)
    return named


def _highest(sums: Moments, concepts: ConceptDictionary, most: int, poles: int) -> tuple[Tensor, Tensor]:
    """Return the highest correlations of each pole, ``[N poles, K]`` float64 descending, and the concepts' indices."""
    values, index = [], []
    for start in range(0, len(sums.a), _ROWS):
        part = sums.rows(slice(start, start + _ROWS))
        best = torch.full((len(part.a) * poles, most), -2.0, dtype=torch.float64)
        at = torch.zeros(best.shape, dtype=torch.int64)
        first = 0
        for block in blocks(concepts.rows):
            found = part.correlation(block)
            signed = torch.stack([found, -found][:poles], dim=1).flatten(0, 1)
            best, at = _merged(best, at, signed, first)
            first += len(block)
        values.append(best)
        index.append(at)
    return torch.cat(values), torch.cat(index)


def _merged(best: Tensor, at: Tensor, found: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Return the highest of those so far and those of a block of concepts; of equal ones the first concept's."""
    new = found.topk(min(best.shape[1], found.shape[1]), dim=1)
    values, places = torch.cat([best, new.values], dim=1), torch.cat([at, new.indices + first], dim=1)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, : best.shape[1]]
    return values.gather(1, order), places.gather(1, order)


def _measure(
    editor: OpenModel,
    decomposition: Decomposition,
    images: Images,
    processor: Any | None,
    batch_size: int,
    job: ResumableJob,
    progress: bool,
) -> tuple[Moments, dict[str, Any]]:
    """Return the sums over all images, and the record of the images."""
    batch_size = whole_number(batch_size, "batch_size", 1)
    (variant,) = model_variants(editor, {BASE: None}, processor=processor)
    shown = progress and job.processes.is_main
    source = image_dataset(images, progress=shown)
    column = source.data.columns.image
    source.check([column])
    device = exact_device(variant.device)
    facts: dict[str, Any] = {}
    if job.folder is not None:
        base = vision_base(editor, pixel_settings(variant.processor))
        facts = {
            "images": image_facts(source),
            "weights": sorted(base.sha256.items()),
            "settings": dict(base.settings),
            "vectors": [list(decomposition.layers), decomposition.num_heads, decomposition.rank],
            "decomposition": {name: decomposition.settings.get(name) for name in ("fold", "centre")},
            "computed in": [str(next(editor.model.parameters()).dtype), device.type],
            "batch size": [batch_size, BATCHES],
        }
    with (
        ready([variant], device),
        reading_coefficients(editor.model, editor.tower, decomposition) as reader,
        source.bar("correlating", shown) as bar,
    ):

        def make(found: Mapping[str, Part]) -> Iterator[tuple[str, Part]]:
            for piece in missing_pieces(source, column, batch_size * BATCHES, job.processes, found):
                yield piece.name, _piece(variant, reader, piece.rows, column, batch_size, device)

        def counted() -> Iterator[tuple[str, Part]]:
            for name, part in job.pieces("driven-by", facts, make):
                bar.update(int(part["rows"]))
                yield name, part

        return _together(source, in_order(counted()))


def _piece(
    variant: ModelVariant, reader: Any, rows: list[Any], column: str, batch_size: int, device: torch.device
) -> Part:
    skipped: Counter[str] = Counter()
    images, sums = fingerprint(rows, column), None
    for start in range(0, len(rows), batch_size):
        found, reasons, _ = embed_batch([variant], rows[start : start + batch_size], [column], device, "no")
        skipped.update(reason for reason in reasons if reason is not None)
        if found[column].shape[1]:
            part = Moments.of(reader.take(), torch.from_numpy(found[column][0]))
            sums = part if sums is None else sums + part
    text = json.dumps(skipped, sort_keys=True).encode()
    return {
        **({} if sums is None else sums.to_part()),
        "rows": torch.tensor(len(rows)),
        "skipped": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        "images": as_tensor(images),
    }


def _together(source: ImageDataset, parts: Iterable[Part]) -> tuple[Moments, dict[str, Any]]:
    """Add up the parts, and return the sums with the record of the images."""
    skipped: Counter[str] = Counter()
    sums: Moments | None = None
    images = rows = 0
    for part in parts:
        rows, images = rows + int(part["rows"]), images + number_of(part)
        skipped.update(json.loads(part["skipped"].numpy().tobytes()))
        if "count" in part:
            sums = Moments.from_part(part) if sums is None else sums + Moments.from_part(part)
    if not rows:
        raise InputError(f"{source.title} has no rows")
    check_count(0 if sums is None else int(sums.count), source.title, skipped)
    assert sums is not None
    if not all(bool(torch.isfinite(value).all()) for value in sums.to_part().values()):
        raise InputError(f"{source.title}: embeddings or coefficients are not finite; check the weights")
    record = {"count": int(sums.count), "skipped": dict(sorted(skipped.items())), "images_sha256": hex_of(images)}
    return sums, {**described(source), **record}
