"""Fingerprints: what identifies the weights, settings and texts that a result was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
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


def tokenizer_sha256(tokenizer: Any) -> str:
    """Return the sha256 of everything that decides how a tokenizer encodes a text.

    Padding, truncation and decoding are left out, and so are fields without a value: saving a tokenizer again, also
    with another release of transformers, does not change the result.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        content = {key: item for key, item in content.items() if key not in _NOT_ENCODING}
    else:
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        content = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab(), "special": special}
        content["merges"] = sorted(map(str, getattr(tokenizer, "bpe_ranks", {}).items()))
    return hashlib.sha256(json.dumps(_filled(content), sort_keys=True).encode("ascii")).hexdigest()


_NOT_ENCODING = ("version", "truncation", "padding", "decoder")


def _filled(value: Any) -> Any:
    """Return JSON data without the entries of objects that are null, false or empty."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None and item is not False}
        return {key: _filled(item) for key, item in kept.items() if item not in ("", [], {})}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def settings_of(value: Any, what: str) -> dict[str, Any]:
    """Return named settings read from JSON; none where they are missing. Raises ArtifactError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ArtifactError(f"the settings of {what} are damaged; make the file again")
    return value


def changed_setting(made: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, str] | None:
    """Compare the settings that a result was made with and those of a model.

    A setting that either side lacks is not known and not compared.

    Returns:
        the first setting that differs, with its value on either side, such as ``"num_attention_heads 2"`` and
        ``"num_attention_heads 4"``; None if none does.
    """
    for name in sorted(made.keys() & found.keys()):
        if made[name] != found[name]:
            return f"{sanitize(name)} {_shown(made[name])}", f"{sanitize(name)} {_shown(found[name])}"
    return None


def _shown(value: Any) -> str:
    return sanitize(value[:12] + "..." if isinstance(value, str) and len(value) > 40 else repr(value), 200)


@dataclass(frozen=True)
class BaseRef:
    """The weights that a result was made from, and the settings that decide what they compute.

    Attributes:
        name: the Hub id or folder, as the user gave it.
        revision: the commit on the Hub, None for a folder.
        sha256: fingerprints (:func:`tensor_sha256`) of the tensors that were read, by name on disk.
        settings: settings that are no tensors, such as the number of heads, as JSON values by name; a setting that is
            missing is not known, as in files of earlier releases.
    """

    name: str
    revision: str | None
    sha256: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def check(self, sha256: Mapping[str, str], where: str, settings: Mapping[str, Any] | None = None) -> None:
        """Raise BaseMismatch unless other weights have every tensor of this base and no different setting.

        Args:
            sha256: fingerprints of the other weights.
            where: the name of the other weights in the message.
            settings: settings of the other weights; not compared when None.
        """
        for key, wanted in self.sha256.items():
            found = sha256.get(key)
            if found != wanted:
                state = "is not there" if found is None else "has other values"
                raise BaseMismatch(
                    f"this was made for {self.name}, but {key} {state} in {where}: "
                    "use the original base, or make it again for this one"
                )
        changed = changed_setting(self.settings, settings or {})
        if changed is not None:
            raise BaseMismatch(
                f"this was made for {self.name} with {changed[0]}, but {where} has {changed[1]}: "
                "make it again for this one, or restore the old setting"
            )

    def only(self, keys: Collection[str]) -> BaseRef:
        """Return the same base with only the fingerprints of ``keys``."""
        return replace(self, sha256={key: self.sha256[key] for key in self.sha256 if key in keys})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        settings = {"settings": dict(sorted(self.settings.items()))} if self.settings else {}
        return {"name": self.name, "revision": self.revision, "sha256": dict(sorted(self.sha256.items())), **settings}

    @classmethod
    def from_json(cls, value: Any) -> BaseRef:
        """Read what :meth:`to_json` returns. Raises ArtifactError for anything else."""
        match value:
            case {"name": str(name), "revision": None | str() as revision, "sha256": dict(sha256)} if all(
                isinstance(item, str) for item in sha256.values()
            ):
                return cls(name, revision, dict(sha256), settings_of(value.get("settings"), "the base"))
        raise ArtifactError("the record of the base is damaged; make the file again")
