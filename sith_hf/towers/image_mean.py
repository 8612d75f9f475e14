"""``ImageMean``: the mean image embedding, which closes the gap between images and texts (Method, sec. 3)."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.reading import open_regular, reason
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import InputError
from sith_hf.files import (
    Layout,
    TorchFile,
    is_torch_file,
    library_versions,
    read_artifact,
    require,
    write_artifact,
)
from sith_hf.hub import find_artifact
from sith_hf.towers.tower import Tower

IMAGE_MEAN_LAYOUT = Layout(
    format="sith-hf/image-mean",
    version=1,
    filename="image_mean.safetensors",
    tensors={"image_mean": (torch.float64, "P")},
    data={"base": dict, "count": int, "skipped": dict, "source": dict, "images_sha256": str, "libraries": dict},
    repo_type="dataset",
)

MAX_BYTES = 2**26
"""Far above any mean: 64 MB hold one of 16 million numbers."""


@short_repr
@dataclass(frozen=True, eq=False)
class ImageMean:
    """The mean of normalised image embeddings, with its images and weights.

    Attributes:
        image_mean: ``[P]`` float64, shorter than 1.
        count: the number of images; 0 for an estimate without images.
        skipped: the number of rows without a readable image, by reason.
        base: the weights that embedded them: every tensor of the vision tower, and the projection.
        source: the dataset as JSON values: title, split, revision, column, limit, ``datasets`` fingerprint if known.
        images_sha256: the fingerprint of the images, independent of their order.
    """

    image_mean: Tensor
    count: int
    skipped: Mapping[str, int]
    base: BaseRef
    source: Mapping[str, Any]
    images_sha256: str

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``image_mean.safetensors`` into ``folder``. Raises OutputError."""
        data = {
            "base": self.base.to_json(),
            "count": self.count,
            "skipped": dict(self.skipped),
            "source": dict(self.source),
            "images_sha256": self.images_sha256,
            "libraries": library_versions(),
        }
        return write_artifact(folder, IMAGE_MEAN_LAYOUT, {"image_mean": self.image_mean.double()}, data)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, token: str | None = None
    ) -> ImageMean:
        """Read what :meth:`save_pretrained` wrote, from a folder or a Hub repository. Raises ArtifactError."""
        path = find_artifact(name_or_path, IMAGE_MEAN_LAYOUT, revision, token)
        tensors, data = read_artifact(path, IMAGE_MEAN_LAYOUT)
        mean = tensors["image_mean"]
        some = data["count"] > 0 or "estimate" in data["source"]
        require(some and float(mean.norm()) < 1, path, "it is not a mean of unit vectors")
        same = {name: data[name] for name in ("count", "skipped", "source", "images_sha256")}
        return cls(image_mean=mean, base=BaseRef.from_json(data["base"]), **same)

    def check(self, tower: Tower, pixels: Mapping[str, Any] | None = None) -> None:
        """Raise BaseMismatch unless ``tower`` embedded the images.

        Args:
            tower: its weights and settings are compared.
            pixels: the settings of the model's image processor (:func:`sith_hf.images.pixel_settings`), compared too;
                not known when None.
        """
        ours = tower.sha256(range(len(tower.layers)))
        settings = {**tower.settings, **(pixels or {})}
        self.base.only(ours).check(ours, "this model; an image mean is valid for its own model only", settings)


def image_mean_file(path: str | Path) -> Path:
    """Return the file of ``path``, which is the file or its folder: ``image_mean.safetensors``, else ``image_mean.pt``.

    The second is the name that the paper's authors publish theirs under.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    ours, theirs = path / IMAGE_MEAN_LAYOUT.filename, path / f"{Path(IMAGE_MEAN_LAYOUT.filename).stem}.pt"
    return theirs if theirs.is_file() and not ours.exists() else ours


def read_image_mean(path: str | Path, tower: Tower | None = None, pixels: Mapping[str, Any] | None = None) -> Tensor:
    """Read an image mean, ``[P]``.

    Args:
        path: an artifact, any safetensors file with a tensor ``image_mean``, a file of ``torch.save(mean)``, or a
            folder with one of them (:func:`image_mean_file`). The content decides, not the name.
        tower: the tower that the mean belongs to; checked for artifacts, which have a fingerprint.
        pixels: as for :meth:`ImageMean.check`.

    Raises:
        InputError: there is no such file or tensor.
        BaseMismatch: the mean was computed with other weights or settings than those of ``tower``.
    """
    file = image_mean_file(path)
    if is_torch_file(file) or file.suffix in (".pt", ".pth"):
        return _of_torch_file(file)
    try:
        with open_regular(file) as plain:  # safe_open waits for the other end of a pipe, and maps a file of any size
            if os.fstat(plain.fileno()).st_size > MAX_BYTES:
                raise OSError(errno.EFBIG, f"more than {MAX_BYTES:,} bytes")
        with safe_open(file, framework="pt") as opened:
            # An artifact has several of these keys: one that is damaged must not look like a file of another program.
            if not {"version", "sith"} & set(opened.metadata() or {}):
                tensor: Tensor = opened.get_tensor("image_mean")
                return tensor
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: expected a safetensors file with a tensor named image_mean, or torch.save(mean) ({reason(error)})"
        ) from None
    mean = ImageMean.from_pretrained(file)
    if tower is not None:
        mean.check(tower, pixels)
    return mean.image_mean


def _of_torch_file(path: Path) -> Tensor:
    """Return the one vector of a torch file, ``[P]`` float32; axes of length 1 are dropped."""
    found = TorchFile.read(path, "torch.save(mean), one vector", MAX_BYTES)
    mean = found.tensor("an image mean", found.content).squeeze()
    shown = sanitize(str(path))
    if not mean.is_floating_point() or mean.ndim != 1:
        raise InputError(
            f"{shown}: an image mean must be one vector of floating-point numbers; got {mean.dtype} {[*mean.shape]}"
        )
    if not torch.isfinite(mean).all():
        raise InputError(f"{shown}: the image mean holds NaN or infinity; the file is damaged, download it again")
    return mean.float().contiguous()
