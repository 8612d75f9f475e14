"""Fingerprints: sha256 sums that identify the weights and texts that a result was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.errors import ArtifactError, BaseMismatch, InputError


def tensor_sha256(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's shape and values, equal for copies of it in wider float dtypes.

    Values are hashed as float32, or as float64 if float32 cannot hold them. Casting up is exact, so a half-precision
    checkpoint and its float32 cast have the same fingerprint.

    Raises:
        InputError: the tensor is on the meta device.
    """
    if tensor.is_meta:
        raise InputError("a weight is on the meta device, without values: load the model whole, without offloading")
    own = tensor.detach().cpu()
    wide = own.to(torch.float32)
    if own.dtype == torch.float64 and not torch.equal(wide.double(), own):
        wide = own
    digest = hashlib.sha256(f"{list(wide.shape)}{wide.dtype}".encode())
    digest.update(wide.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def texts_sha256(texts: Sequence[str]) -> str:
    """Return the sha256 of a sequence of texts in order, each preceded by its length."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def text_tower_sha256(model: Any) -> str:
    """Return the sha256 of the text tower and text projection of a ``CLIPModel``."""
    weights = {**model.text_model.state_dict(), "projection": model.text_projection.weight}
    return texts_sha256([part for name in sorted(weights) for part in (name, tensor_sha256(weights[name]))])


@dataclass(frozen=True)
class BaseRef:
    """The weights that a result was made from.

    Attributes:
        name: the Hub id or folder, as the user gave it.
        revision: the commit on the Hub, None for a folder.
        sha256: fingerprints (:func:`tensor_sha256`) of the tensors that were read, by name on disk.
    """

    name: str
    revision: str | None
    sha256: Mapping[str, str]

    def check(self, sha256: Mapping[str, str], where: str) -> None:
        """Raise BaseMismatch unless ``sha256`` has every tensor of this base; ``where`` names the other weights."""
        for key, wanted in self.sha256.items():
            found = sha256.get(key)
            if found != wanted:
                state = "is not there" if found is None else "has other values"
                raise BaseMismatch(
                    f"this was made for {self.name}, but {key} {state} in {where}: "
                    "use the original base, or make it again for this one"
                )

    def only(self, keys: Collection[str]) -> BaseRef:
        """Return the same base with only the fingerprints of ``keys``."""
        return BaseRef(self.name, self.revision, {key: self.sha256[key] for key in self.sha256 if key in keys})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"name": self.name, "revision": self.revision, "sha256": dict(sorted(self.sha256.items()))}

    @classmethod
    def from_json(cls, value: Any) -> BaseRef:
        """Read what :meth:`to_json` returns. Raises ArtifactError for anything else."""
        match value:
            case {"name": str(name), "revision": None | str() as revision, "sha256": dict(sha256)} if all(
                isinstance(item, str) for item in sha256.values()
            ):
                return cls(name, revision, dict(sha256))
        raise ArtifactError("the record of the base is damaged; make the file again")
