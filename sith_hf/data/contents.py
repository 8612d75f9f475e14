"""The files of a local folder by their kind; ``datasets`` reads one kind of a folder, without a word on the others."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from sith_hf.errors import InputError

# The loader of a file of rows, by the end of the file's name.
TABLES: Mapping[str, str] = {
    ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".arrow": "arrow", ".tar": "webdataset",
}  # fmt: skip
_PACKED = {".gz", ".bz2", ".xz", ".zst", ".lz4"}


@dataclass(frozen=True)
class Contents:
    """The files of a folder that may be its data.

    Attributes:
        images: the parts of the path of each image below the folder, sorted.
        tables: the number of files of rows by the end of their names.
        at_top: whether all files of rows lie in the folder itself.
        metadata: the parts of the path of each table that describes images.
        archives: whether there are archives, whose contents are not seen here.
    """

    images: tuple[tuple[str, ...], ...]
    tables: Mapping[str, int]
    at_top: bool
    metadata: tuple[tuple[str, ...], ...]
    archives: bool

    def check(self, title: str) -> bool:
        """Return whether the images are the data.

        Raises:
            InputError: files of several kinds, where nothing says which kind is meant.
        """
        beside = all(end in (".csv", ".tsv", ".json", ".jsonl") for end in self.tables) and self.at_top
        sorted_in = len({parts[0] for parts in self.images if len(parts) > 1}) > 1
        if self.images and (not self.tables or (sorted_in and beside and self._rows() < len(self.images))):
            return True
        if self.images or len({TABLES[end] for end in self.tables}) > 1:
            raise InputError(
                f"{title} has files of several kinds, {self.shown()}; name a file, or a folder of one kind"
            )
        return False

    def shown(self, images: bool = True) -> str:
        """Return the number of files of each kind, as text."""
        parts = [f"{count} {end}" for end, count in sorted(self.tables.items())]
        if images and self.images:
            parts.append(f"{len(self.images)} images")
        return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))

    def _rows(self) -> int:
        return sum(self.tables.values())


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through a folder as ``os.walk`` does, through links too, but never into a folder above or twice."""
    seen = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        places = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(folders)}
        folders[:] = [name for name, place in places.items() if place not in seen]
        seen.update(places[name] for name in folders)
        yield root, folders, files


def kind_of(name: str) -> str:
    """Return the end of a file's name in lower case, without that of a compression."""
    ends = [end.lower() for end in PurePath(name).suffixes[-2:]]
    return ends[0] if len(ends) == 2 and ends[1] in _PACKED else ends[-1] if ends else ""


def contents_of(folder: str) -> Contents:
    """Return the files of a folder; hidden ones, and those that ``datasets`` ignores, are left out."""
    from datasets.data_files import FILES_TO_IGNORE
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    images: list[tuple[str, ...]] = []
    tables: Counter[str] = Counter()
    metadata: list[tuple[str, ...]] = []
    at_top, archives = True, False
    for root, folders, files in walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        above = PurePath(os.path.relpath(root, folder)).parts
        for name in files:
            if name.startswith(".") or name in FILES_TO_IGNORE:
                continue
            end = kind_of(name)
            archives |= end == ".zip"
            if name in ImageFolder.METADATA_FILENAMES:
                metadata.append((*above, name))
            elif end in ImageFolder.EXTENSIONS:
                images.append((*above, name))
            elif end in TABLES:
                tables[end] += 1
                at_top &= not above
    return Contents(tuple(sorted(images)), tables, at_top, tuple(metadata), archives)
