"""One pass over images that finds those which drive vectors most, in pieces that processes share."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.devices import exact_device
from sith_hf.core.escaping import sanitize, shown_name
from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.grounding.coefficients import CoefficientReader, Vector, reading_coefficients
from sith_hf.grounding.running_top import RunningTop, SeenImage
from sith_hf.grounding.view import View
from sith_hf.images import (
    SHARD,
    BrokenImage,
    ImageDataset,
    OpenModel,
    Piece,
    as_tensor,
    check_count,
    decode_image,
    described,
    fingerprint,
    hex_of,
    image_facts,
    missing_pieces,
    number_of,
    pixel_settings,
    vision_base,
)

TOP, SAMPLE = 16, 64
"""Images kept for each pole, and random images."""

# Batches in one piece, the most that is repeated after an interruption.
BATCHES = 16


@dataclass(frozen=True, eq=False)
class StrongestImages:
    """What a pass over images found.

    Attributes:
        found: the images, by keys.
        active: ``[N]``, the share of images on which each coefficient is positive.
        record: of the dataset: described, with ``count``, ``skipped`` and ``images_sha256``.
        before: number of a shard of a stream to the number of rows before it.
    """

    found: RunningTop
    active: Tensor
    record: Mapping[str, Any]
    before: Mapping[int, int]

    def row(self, key: int) -> int:
        """Return the number of the row of an image in its dataset (among the rows that ``where`` chooses)."""
        shard, row = divmod(key, SHARD)
        return self.before[shard] + row


def strongest_images(
    editor: OpenModel,
    decomposition: Decomposition,
    vectors: Sequence[Vector],
    source: ImageDataset,
    view: View,
    *,
    batch_size: int,
    job: ResumableJob,
    progress: bool,
) -> StrongestImages:
    """Find the images with the largest and smallest coefficients of N vectors, and a random sample.

    Pieces and batches are the same for any number of processes, so the result is bit-identical. At most 2 N ``TOP`` +
    ``SAMPLE`` images are in memory, as pictures of the size that the model sees. Rows without a readable image are
    counted and left out.

    Raises:
        InputError: fewer than 32 readable images, a missing column, a coefficient that is not finite, or images that
            differ from those before an interruption.
    """
    column, device = source.data.columns.image, exact_device(view.variant.device)
    source.check([column])
    base = vision_base(editor, pixel_settings(view.variant.processor))
    facts = {
        "images": image_facts(source),
        "weights": hashlib.sha256(json.dumps(base.sha256, sort_keys=True).encode()).hexdigest(),
        "settings of the model": dict(editor.tower.settings),
        "computed in": [str(next(editor.model.parameters()).dtype), device.type],
        "image processor": json.dumps(view.variant.processor.to_dict(), sort_keys=True, default=str),
        "batch size": [batch_size, BATCHES],
        "decomposition": [tensor_sha256(decomposition.write), decomposition.settings.get("fold")],
        "vectors": [list(vector) for vector in vectors],
        "images kept": [TOP, SAMPLE, view.embeds],
    }
    running, totals = RunningTop(len(vectors), TOP, SAMPLE), _Totals(len(vectors))
    with (
        reading_coefficients(editor.model, editor.tower, decomposition, vectors) as reader,
        source.bar("grounding", progress and job.processes.is_main) as bar,
    ):

        def make(found: Mapping[str, Part]) -> Iterator[tuple[str, Part]]:
            for piece in missing_pieces(source, column, batch_size * BATCHES, job.processes, found):
                yield piece.name, _part(piece, column, view, reader, running, batch_size, device)

        for name, part in job.pieces("ground", facts, make):
            running.add(_images_in(part))
            totals.add(name, part)
            bar.update(int(part["rows"]))
    if not totals.rows:
        raise InputError(f"{source.title} has no rows")
    check_count(totals.count, source.title, totals.skipped)
    record = {
        **described(source),
        "count": totals.count,
        "skipped": dict(sorted(totals.skipped.items())),
        "images_sha256": hex_of(totals.images),
    }
    return StrongestImages(running, totals.active.double() / totals.count, record, totals.before)


class _Totals:
    """Sums over all parts."""

    def __init__(self, vectors: int) -> None:
        self.count, self.images, self.skipped = 0, 0, Counter[str]()
        self.active = torch.zeros(vectors, dtype=torch.int64)
        self.rows: dict[str, int] = {}

    def add(self, name: str, part: Part) -> None:
        """Add a part."""
        self.rows[name] = int(part["rows"])
        self.count += int(part["count"])
        self.images += number_of(part)
        self.active += part["active"]
        self.skipped.update(_plain(part["skipped"]))

    @property
    def before(self) -> dict[int, int]:
        """The number of rows before each shard."""
        found: dict[int, int] = {}
        total = 0
        for name in sorted(self.rows):
            found.setdefault(int(name.partition("-")[0]), total)
            total += self.rows[name]
        return found


def _part(
    piece: Piece,
    column: str,
    view: View,
    reader: CoefficientReader,
    running: RunningTop,
    batch_size: int,
    device: torch.device,
) -> Part:
    """Return the images of a piece that may be among the strongest of all, given those seen by this process."""
    here, mine = copy(running), set[int]()
    active, count, skipped = torch.zeros(running.vectors, dtype=torch.int64), 0, Counter[str]()
    for start in range(0, len(piece.rows), batch_size):
        keys, files, pictures = [], [], []
        for number, row in enumerate(piece.rows[start : start + batch_size], start):
            try:
                pictures.append(decode_image(row[column]))
            except BrokenImage as error:
                skipped[str(error)] += 1
                continue
            keys.append(piece.key + number)
            files.append(_file(row[column]))
        if not keys:
            continue
        pixels = view.pixels(pictures)
        with torch.inference_mode():
            embeddings = view.embed(pixels.to(device))
        coefficients = reader.take().float()
        if not (torch.isfinite(coefficients).all() and torch.isfinite(embeddings).all()):
            raise InputError(f"{view.variant.name}: a coefficient or an embedding is not finite; check the weights")
        count += len(keys)
        active += (coefficients > 0).sum(dim=0)
        wanted = here.wanted(keys, coefficients)
        mine |= {keys[n] for n in wanted}
        here.add(
            {
                keys[n]: SeenImage(coefficients[n].clone(), embeddings[n].clone(), view.picture(pixels[n]), files[n])
                for n in wanted
            }
        )
    kept = {key: image for key, image in here.images.items() if key in mine}
    images = fingerprint(piece.rows, column)
    return {
        **_tensors(kept, running.vectors),
        "rows": torch.tensor(len(piece.rows)),
        "count": torch.tensor(count),
        "active": active,
        "skipped": _json(skipped),
        "images": as_tensor(images),
    }


def _tensors(images: Mapping[int, SeenImage], vectors: int) -> Part:
    """Return images as tensors; the inverse of :func:`_images_in`."""
    found = list(images.values())
    pictures = bytearray(b"".join(image.picture for image in found))
    return {
        "keys": torch.tensor(list(images), dtype=torch.int64),
        "coefficients": torch.stack([i.coefficients for i in found]) if found else torch.zeros(0, vectors),
        "embeddings": torch.stack([i.embedding for i in found]) if found else torch.zeros(0, 0),
        "pictures": torch.frombuffer(pictures, dtype=torch.uint8) if pictures else torch.zeros(0, dtype=torch.uint8),
        "sizes": torch.tensor([len(image.picture) for image in found], dtype=torch.int64),
        "files": _json([image.file for image in found]),
    }


def _images_in(part: Part) -> dict[int, SeenImage]:
    pictures = part["pictures"].numpy().tobytes()
    ends = part["sizes"].cumsum(0).tolist()
    files = [pictures[end - size : end] for end, size in zip(ends, part["sizes"].tolist(), strict=True)]
    rows = zip(part["coefficients"], part["embeddings"], files, _plain(part["files"]), strict=True)
    return {key: SeenImage(*row) for key, row in zip(part["keys"].tolist(), rows, strict=True)}


def _file(value: Any) -> str:
    """Return the name of an undecoded image's file, without its folders; empty if it has none."""
    path = value.get("path") if isinstance(value, Mapping) else None
    return sanitize(shown_name(path), 80) if isinstance(path, str) and path else ""


def _json(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value, sort_keys=True).encode()), dtype=torch.uint8)


def _plain(tensor: Tensor) -> Any:
    return json.loads(tensor.numpy().tobytes())
