"""Datasets on this machine: a file, a folder of files, or a folder of ``save_to_disk``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sith_hf.core.escaping import sanitize, shown_name
from sith_hf.core.reading import open_regular, read_bytes
from sith_hf.data.contents import TABLES, Contents, contents_of, kind_of, walk
from sith_hf.data.picture_folder import arranged
from sith_hf.data.slicing import sliced, split_name
from sith_hf.errors import InputError

# datasets takes a path for a pattern of fsspec, which knows these; a dot matches no newline there.
_PATTERN = re.compile(r"[*?\[\n]")


def local_path(name: str) -> Path | None:
    """Return the full path of a file or folder of this name, None if there is none; ``~`` is the home folder."""
    for path in (name, os.path.expanduser(name)):
        if os.path.lexists(path):
            return Path(os.path.abspath(path))
    return None


def load_local(path: Path, config: str | None, split: str | None, streaming: bool) -> tuple[Any, tuple[str, ...]]:
    """Open a file or folder with ``datasets``.

    A full path is never taken for the id of a dataset or the name of a loader. A path that is a pattern to ``datasets``
    could name other folders; its files are listed instead.

    Args:
        path: the full path.
        config: the configuration.
        split: a split, which the caller chooses from the result; or a slice of one, such as ``train[:100]``.
        streaming: open it as a stream.

    Returns:
        A dataset, or a mapping of splits; and what is left out of a folder, in sentences.

    Raises:
        InputError: neither a file of a known type nor a folder, files of several kinds, a name that ``datasets`` cannot
            read, or one saved split, which is not ``split``.
        Exception: of :func:`sith_hf.data.faults.faults`.
    """
    import datasets

    title, real = sanitize(shown_name(str(path))), os.path.realpath(path)
    whole = split
    split = None if split is None or split.isidentifier() else split
    if "::" in f"{path} {real}":
        raise InputError(f"{title}: its path has '::', which datasets takes for an archive in an archive; rename it")
    if os.path.isfile(path):
        if config is not None:
            raise InputError(f"{title} is one file, which has no configurations; leave --config out")
        reader, options = _reader(path, title)
        _check_text([str(path)], title)
        files = {"train": _listed([str(path)])}
        if streaming and split is not None:
            return _streamed(datasets.load_dataset(reader, data_files=files, **options), split, True, title), ()
        return datasets.load_dataset(reader, data_files=files, split=split, streaming=streaming, **options), ()
    if not os.path.isdir(path):
        raise InputError(f"{title} is neither a file nor a folder; name a folder of images or of Parquet files")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _streamed(_saved(path, whole, title), split, streaming, title), ()
    listed = None
    if not _has_configurations(Path(real), title):
        found = contents_of(real)
        plain = not found.archives and (bool(found.metadata) or found.check(title))
        pictures = arranged(found.images) if plain and found.images else None
        if pictures is not None and not found.metadata:
            return _streamed(pictures.load(str(path)), split, streaming, title), _notes(found, pictures.notes)
        if pictures is not None and set(pictures.splits) == {"train"}:
            listed = {"train": _listed([os.path.join(path, *parts) for parts in (*found.images, *found.metadata)])}
        elif _needs_list(real, found):
            listed = _files_by_split(real, found, title)
            _check_text([file for files in listed.values() for file in files], title)
    if streaming and split is not None:
        return _streamed(datasets.load_dataset(str(path), config, data_files=listed), split, True, title), ()
    return datasets.load_dataset(str(path), config, split=split, streaming=streaming, data_files=listed), ()


def _notes(found: Contents, notes: tuple[str, ...]) -> tuple[str, ...]:
    return (*notes, f"{found.shown(images=False)} files beside the images are not read") if found.tables else notes


def _streamed(found: Any, split: str | None, streaming: bool, title: str) -> Any:
    """Return opened splits, or the slice ``split`` of them, as streams if wanted."""
    if split is not None:
        found = sliced(found if isinstance(found, Mapping) else {split_name(found): found}, split, title)
    if not streaming:
        return found
    if isinstance(found, Mapping):
        return {key: value.to_iterable_dataset() for key, value in found.items()}
    return found.to_iterable_dataset()


def _has_configurations(folder: Path, title: str) -> bool:
    """Return whether a card says which files are the data.

    Raises:
        InputError: it does so by patterns, which would start from a folder that is a pattern itself.
    """
    card = folder / "README.md"
    if not card.is_file() or re.search(rb"^configs:", read_bytes(card), re.MULTILINE) is None:
        return False
    if _PATTERN.search(str(folder)):
        raise InputError(f"{title}: its path has one of * ? [, and its README.md lists files by patterns; rename it")
    return True


def _needs_list(folder: str, found: Contents) -> bool:
    """Return whether ``datasets`` would not find the data of a folder itself.

    Its path is a pattern; or it has links to folders or texts beside its rows, of which ``datasets`` leaves out the one
    and may read the other.
    """
    if _PATTERN.search(folder) or (found.tables and not (found.metadata or found.archives)):
        return True
    return any(os.path.islink(root) for root, _, _ in walk(folder) if root != folder)


def _reader(path: Path, title: str) -> tuple[str, dict[str, str]]:
    kind = kind_of(path.name)
    if kind == ".py":
        raise InputError(f"{title} is a script, which datasets 4 and later do not run; name a folder of files")
    if kind not in TABLES:
        raise InputError(f"{title} has an unknown file type; expected one of {', '.join(TABLES)}, or a folder")
    return ("csv", {"sep": "\t"}) if kind == ".tsv" else (TABLES[kind], {})


def _check_text(files: list[str], title: str) -> None:
    """Refuse tables of text that begin with zero bytes: readers look for the end of the first line, for minutes."""
    for file in files:
        if file.lower().endswith((".csv", ".tsv", ".json", ".jsonl", ".ndjson")):
            with open_regular(file) as opened:
                if b"\0" in (opened.read(4096) or b""):
                    raise InputError(f"{title} is no text: it begins with zero bytes; save it as UTF-8")


def _saved(path: Path, wanted: str | None, title: str) -> Any:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except IndexError:  # it joins the tables of its files, and there are none
        raise InputError(f"{title} has no rows") from None
    one = not isinstance(found, Mapping) and found.split is not None
    if one and wanted is not None and wanted.isidentifier() and wanted != split_name(found):
        raise InputError(f"{title} has no split {sanitize(wanted)}; it was saved from {split_name(found)} (--split)")
    return found


def _listed(files: list[str]) -> Any:
    """Return files as a list that ``datasets`` does not take for patterns."""
    from datasets.data_files import DataFilesList

    return DataFilesList(files, [(str(os.stat(file).st_mtime_ns),) for file in files])


def _files_by_split(folder: str, found: Contents, title: str) -> dict[str, Any]:
    """Return the files of a folder by split, as ``datasets`` would find them if the folder had a plain name.

    It looks for them in a copy of the folder that holds links and has a plain name.

    Raises:
        InputError: files of rows that are in no split.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    rows_only = found.tables and not (found.metadata or found.archives)
    with TemporaryDirectory() as made:
        copy = os.path.realpath(made)
        for root, folders, files in walk(folder):
            below = copy + root[len(folder) :]
            for name in folders:
                os.mkdir(os.path.join(below, name))
            for name in files:
                if not rows_only or kind_of(name) in found.tables:
                    os.symlink(os.path.join(root, name), os.path.join(below, name))
        by_split = DataFilesDict.from_patterns(get_data_patterns(copy), base_path=copy)
        count = sum(len(files) for files in by_split.values())
        if rows_only and count < (total := sum(found.tables.values())):
            raise InputError(
                f"{title}: {total - count} of its {total} files are in no split, which {', '.join(map(str, by_split))} "
                "in names of the others say; name a file"
            )
        return {str(name): _listed([folder + file[len(copy) :] for file in files]) for name, files in by_split.items()}
