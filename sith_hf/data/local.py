"""Datasets on this machine: a file, a folder of files, or a folder of ``save_to_disk``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sith_hf.core.escaping import sanitize, shown_name
from sith_hf.core.reading import read_bytes
from sith_hf.errors import InputError

# The reader of a file and its options, by the end of the file's name.
_READERS: Mapping[str, tuple[str, dict[str, str]]] = {
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".arrow": ("arrow", {}),
    ".tar": ("webdataset", {}),
}
# datasets takes a path for a pattern of fsspec, which knows these; a dot matches no newline there.
_PATTERN = re.compile(r"[*?\[\n]")


def local_path(name: str) -> Path | None:
    """Return the full path of a file or folder of this name, None if there is none; ``~`` is the home folder."""
    for path in (name, os.path.expanduser(name)):
        if os.path.lexists(path):
            return Path(os.path.abspath(path))
    return None


def load_local(path: Path, config: str | None, split: str | None, streaming: bool) -> Any:
    """Open a file or folder with ``datasets``.

    A full path is never taken for the id of a dataset or the name of a loader. A path that is a pattern to ``datasets``
    could name other folders; its files are listed instead.

    Returns:
        A dataset, or a mapping of splits.

    Raises:
        InputError: neither a file of a known type nor a folder, or a name that ``datasets`` cannot read.
        Exception: of :func:`sith_hf.data.faults.faults`.
    """
    import datasets

    title, real = sanitize(shown_name(str(path))), os.path.realpath(path)
    if "::" in f"{path} {real}":
        raise InputError(f"{title}: its path has '::', which datasets takes for an archive in an archive; rename it")
    if os.path.isfile(path):
        if config is not None:
            raise InputError(f"{title} is one file, which has no configurations; leave --config out")
        reader, options = _reader(path, title)
        files = {"train": _listed([str(path)])}
        return datasets.load_dataset(reader, data_files=files, split=split, streaming=streaming, **options)
    if not os.path.isdir(path):
        raise InputError(f"{title} is neither a file nor a folder; name a folder of images or of Parquet files")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved(path, title, streaming)
    listed = _files_by_split(real) if _needs_list(Path(real), title) else None
    return datasets.load_dataset(str(path), config, split=split, streaming=streaming, data_files=listed)


def _needs_list(folder: Path, title: str) -> bool:
    """Return whether ``datasets`` cannot find the files of a folder itself: its path is a pattern, or it has links.

    Raises:
        InputError: a card lists files by patterns, which would start from a folder that is a pattern itself.
    """
    card = folder / "README.md"
    configured = card.is_file() and re.search(rb"^configs:", read_bytes(card), re.MULTILINE) is not None
    if not _PATTERN.search(str(folder)):
        # datasets leaves out folders below it that are links, without a word.
        return not configured and any(os.path.islink(root) for root, _, _ in _walk(str(folder)) if root != str(folder))
    if configured:
        raise InputError(f"{title}: its path has one of * ? [, and its README.md lists files by patterns; rename it")
    return True


def _walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through a folder as ``os.walk`` does, through links too, but never into a folder above or twice."""
    seen = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        places = {name: os.path.realpath(os.path.join(root, name)) for name in sorted(folders)}
        folders[:] = [name for name, place in places.items() if place not in seen]
        seen.update(places[name] for name in folders)
        yield root, folders, files


def _reader(path: Path, title: str) -> tuple[str, dict[str, str]]:
    kind = path.suffix.lower()
    if kind == ".py":
        raise InputError(f"{title} is a script, which datasets 4 and later do not run; name a folder of files")
    if kind not in _READERS:
        raise InputError(f"{title} has an unknown file type; expected one of {', '.join(_READERS)}, or a folder")
    return _READERS[kind]


def _saved(path: Path, title: str, streaming: bool) -> Any:
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except IndexError:  # it joins the tables of its files, and there are none
        raise InputError(f"{title} has no rows") from None
    if not streaming:
        return saved
    if isinstance(saved, Mapping):
        return {key: value.to_iterable_dataset() for key, value in saved.items()}
    return saved.to_iterable_dataset()


def _listed(files: list[str]) -> Any:
    """Return files as a list that ``datasets`` does not take for patterns."""
    from datasets.data_files import DataFilesList

    return DataFilesList(files, [(str(os.stat(file).st_mtime_ns),) for file in files])


def _files_by_split(folder: str) -> dict[str, Any]:
    """Return the files of a folder by split, as ``datasets`` would find them if the folder had a plain name.

    It looks for them in a copy of the folder that holds links and has a plain name.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    with TemporaryDirectory() as made:
        copy = os.path.realpath(made)
        for root, folders, files in _walk(folder):
            below = copy + root[len(folder) :]
            for name in folders:
                os.mkdir(os.path.join(below, name))
            for name in files:
                os.symlink(os.path.join(root, name), os.path.join(below, name))
        found = DataFilesDict.from_patterns(get_data_patterns(copy), base_path=copy)
        return {str(split): _listed([folder + file[len(copy) :] for file in files]) for split, files in found.items()}
