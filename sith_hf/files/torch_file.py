"""Tensors of a file of ``torch.save``, read without running code in it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import LFS_POINTER, is_lfs_pointer, read_input, read_start, reason
from sith_hf.errors import InputError

MAX_BYTES = 2**30

_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, eq=False)
class TorchFile:
    """The content of a file of ``torch.save``.

    Attributes:
        path: the file.
        content: tensors and plain containers.
        sha256: of its bytes.
    """

    path: Path
    content: Any
    sha256: str
    _sizes: frozenset[int]

    @classmethod
    def read(cls, path: str | Path, expected: str, limit: int = MAX_BYTES) -> TorchFile:
        """Read a file with ``weights_only=True``.

        Args:
            path: the file.
            expected: the content that belongs there, for messages, such as ``torch.save(mean)``.
            limit: the largest number of bytes that is accepted.

        Raises:
            InputError: no such file, one that is too large or damaged, of the format before torch 1.6, compressed, or
                one with objects other than tensors and plain containers.
        """
        path = Path(path)
        shown = sanitize(str(path))
        raw = read_input(path, "the file", f"expected a file of {expected}", limit)
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile:
            advice = LFS_POINTER if is_lfs_pointer(raw) else "download it again"
            raise InputError(
                f"{shown} is not a complete file of torch.save (a zip archive, from torch 1.6 on); {advice}"
            ) from None
        except (OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{shown}: could not be read ({sanitize(str(reason(error)), 200)})") from None
        # torch stores without compression; a compressed entry could unpack to any size.
        if any(entry.file_size != entry.compress_size for entry in entries):
            raise InputError(f"{shown} is a compressed archive, which torch.save never writes; download it again")
        try:
            content: Any = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or hostile file can raise a dozen classes in the unpickler
            why = sanitize((str(error).strip() or type(error).__name__).splitlines()[0], 200)
            raise InputError(
                f"{shown} could not be read as tensors only ({why}); expected a file of {expected}. A file that would "
                "run code is refused"
            ) from None
        return cls(path, content, hashlib.sha256(raw).hexdigest(), frozenset(entry.file_size for entry in entries))

    def tensor(self, name: str, value: Any) -> Tensor:
        """Return ``value``, a part of ``content``, as a tensor without gradients.

        Args:
            name: the part's name, for messages.
            value: the part.

        Raises:
            InputError: no plain dense tensor, or one that claims more bytes than the file has.
        """
        shown = sanitize(str(self.path))
        plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
        if not plain or value.device.type != "cpu":
            raise InputError(f"{shown}: {name} must be a plain tensor; got {type(value).__name__}")
        held = value.untyped_storage().nbytes()
        # With strides of zero, a few bytes can claim any shape; a storage can claim more bytes than the archive has.
        if held not in self._sizes or value.numel() * value.element_size() > held:
            raise InputError(
                f"{shown}: {name} claims shape {[*value.shape]}, more than the file holds; the file is damaged"
            )
        found: Tensor = value.detach()
        return found


def is_torch_file(path: Path) -> bool:
    """Return whether a regular file is a zip archive, as ``torch.save`` writes and safetensors never does."""
    try:
        return read_start(path, len(_ZIP)) == _ZIP
    except (OSError, ValueError):
        return False
