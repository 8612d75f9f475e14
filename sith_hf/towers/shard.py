"""``Shard``: one safetensors file of a checkpoint, read and copied by canonical names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path

from torch import Tensor

from sith_hf.core.reading import reason
from sith_hf.errors import InputError
from sith_hf.files import DTYPES, Entry, TensorFile, raw_bytes, write_all


@dataclass(frozen=True)
class Shard:
    """One safetensors file. Methods raise TemporaryError if it has changed since its header was read.

    Attributes:
        file: the file.
        names: the canonical names of tensors that have another in the file (:mod:`sith_hf.towers.disk_names`).
        renames: whether a copy gets the canonical names.
    """

    file: TensorFile
    names: Mapping[str, str] = field(default_factory=dict)
    renames: bool = False

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read and check the header. Raises InputError unless the file is whole."""
        try:
            with TensorFile.read(path) as (found, _):
                return cls(found)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} is not a whole safetensors file ({reason(error)}): fetch the checkpoint again"
            ) from None

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The tensors by canonical name. Raises InputError if two have the same."""
        found: dict[str, Entry] = {}
        for key, entry in self.file.entries.items():
            name = self.names.get(key, key)
            if name in found:
                raise InputError(f"{self.path} has {name} twice, with and without the prefix: remove one")
            found[name] = entry
        return found

    def tensor(self, key: str) -> Tensor:
        """Read a tensor by canonical name. Raises InputError for a dtype that torch lacks."""
        entry = self.entries[key]
        if entry.dtype not in DTYPES:
            raise InputError(f"{key} in {self.path} is {entry.dtype}, which sith-hf does not read: convert it")
        with self.file.opened() as file:
            return self.file.tensor(file, entry.key)

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the raw bytes of a tensor, a bounded piece at a time."""
        entry = self.entries[key]
        with self.file.opened() as file:
            yield from self.file.pieces(file, entry.start, entry.stop)

    def copy(self, target: Path, replaced: Mapping[str, Tensor]) -> None:
        """Copy the file, with some tensors replaced by others of the same shape and dtype.

        Every other byte is kept, except that the header of a tower saved by itself gets canonical names, since
        transformers 4 would fill tensors of other names with random numbers, without an error. The copy is never a
        hard link: a program that writes into it would change the original, perhaps in the Hub's cache.

        Args:
            target: the file to write.
            replaced: tensors by canonical name, also of other files; each is read when it is written, and not kept.

        Raises:
            InputError: a tensor of another size, or the file changes while it is copied.
        """
        head = self._renamed_header()
        start = 8 + len(self.file.raw) if head else 0
        with target.open("wb", buffering=0) as file:
            write_all(file, head)
            self.file.copy_into(file, start)
            for key in replaced:
                if key in self.entries:
                    self._overwrite(file, key, replaced[key], len(head) - start)

    def _overwrite(self, file: FileIO, key: str, tensor: Tensor, shift: int) -> None:
        entry, raw = self.entries[key], raw_bytes(tensor.detach().cpu().contiguous())
        if len(raw) != entry.stop - entry.start:
            raise InputError(f"{key}: the replacement has another size than the tensor in {self.path}")
        file.seek(entry.start + shift)
        write_all(file, raw)

    def _renamed_header(self) -> bytes:
        """Return the length and bytes of a header with canonical names; empty if the names stay."""
        if not self.renames or not self.names.keys() & self.file.entries.keys():
            return b""
        header = {self.names.get(key, key): item for key, item in self.file.fields.items()}
        encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        encoded += b" " * (-len(encoded) % 8)
        return len(encoded).to_bytes(8, "little") + encoded
