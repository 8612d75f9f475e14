"""``open_rows``: one split of a dataset, by the name that a user gives."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sith_hf.core.escaping import impersonal, sanitize, shown_name
from sith_hf.data.faults import dataset_errors, faults
from sith_hf.data.local import load_local, local_path
from sith_hf.errors import InputError
from sith_hf.hub import is_repo_id


@dataclass(frozen=True, eq=False)
class OpenedRows:
    """One split of a dataset.

    Attributes:
        title: its name in results and messages, without local folders.
        split: its split; empty if it has none.
        rows: the ``datasets.Dataset`` or ``IterableDataset``.
        columns: the names of its columns.
        notes: what of a local folder is left out or could be read otherwise, in sentences.
    """

    title: str
    split: str
    rows: Any = field(repr=False)
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()


def open_rows(
    name: str,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    progress: bool = False,
    preferred: str | None = None,
) -> OpenedRows:
    """Open one split of a dataset. A file or folder of this name comes before a dataset on the Hub.

    Args:
        name: a folder or file, or the id of a dataset on the Hub.
        config: its configuration, for a dataset with several.
        split: its split, or a slice of one such as ``train[:100]``; the only one when None.
        revision: branch, tag or commit on the Hub.
        streaming: read rows as a stream, without a copy on disk.
        progress: ``datasets`` shows its bars on stderr.
        preferred: the split of several when ``split`` is None; without it, or if it is not there, several are refused.

    Raises:
        InputError: not found, not on this machine while offline, several splits or an unknown one, or not readable by
            ``datasets``: the message says why.
    """
    if not name or "\0" in name:
        raise InputError("the name of a dataset is empty or has a null character; name a folder or a Hub id")
    path = local_path(name)
    title = sanitize(impersonal(name) if path is None else shown_name(str(path)))
    notes: tuple[str, ...] = ()
    with dataset_errors(title), _bars(progress):
        if path is None:
            found = _load_remote(name, title, config, split, revision, streaming, preferred)
        elif revision is not None:
            raise InputError(f"{title} is a local dataset, which has no revisions; remove revision (--data-revision)")
        else:
            found, notes = load_local(path, config, split, streaming)
        chosen, rows = split or "", found
        if isinstance(found, Mapping):
            chosen = _chosen([str(key) for key in found], split, title, preferred)
            rows = found[chosen]
        return OpenedRows(title, chosen, rows, columns_of(rows, title), notes)


def columns_of(rows: Any, title: str) -> tuple[str, ...]:
    """Return the names of columns. Raises InputError for a stream without rows, which may not know them."""
    columns = rows.column_names
    if columns is None:
        first = next(iter(rows), None)
        if first is None:
            raise InputError(f"{title} has no rows")
        columns = list(first)
    return tuple(columns)


def no_column(title: str, missing: str, columns: Sequence[str], advice: str) -> InputError:
    """Return the error for columns that are not there; it lists the existing ones."""
    if len(columns) == 1 and (found := {";", "\t", "|"} & set(columns[0])):
        shown = {"\t": "tabs"}.get(min(found), min(found))
        advice = f"Its cells seem to be separated by {shown}: save it with commas, or as .tsv with tabs"
    shown = sanitize(", ".join(columns), 1000)
    return InputError(f"{title} has no column {sanitize(missing)}; it has {shown}. {advice}")


def _load_remote(
    name: str,
    title: str,
    config: str | None,
    split: str | None,
    revision: str | None,
    streaming: bool,
    preferred: str | None,
) -> Any:
    import datasets
    from datasets import packaged_modules

    if name in {module.name for module in pkgutil.iter_modules(packaged_modules.__path__)}:
        # datasets would read every file below the current folder with it.
        raise InputError(
            f"no folder {title} is here, and datasets has a loader of this name; name a folder or a Hub id"
        )
    if not (is_repo_id(name) or name.startswith(("hf://", "buckets/"))):
        raise InputError(f"{title}: no file or folder has this name (check the path), and it is no id of a dataset")
    if not streaming and (split is None or split.isidentifier()):
        # With several splits, nothing is downloaded before one is named.
        try:
            names = [str(item) for item in datasets.get_dataset_split_names(name, config, revision=revision)]
        except faults():
            names = []  # offline or refused: load_dataset finds the local copy or raises
        split = _chosen(names, split, title, preferred) if names else split
    return datasets.load_dataset(name, config, split=split, revision=revision, streaming=streaming)


def _chosen(splits: Sequence[str], wanted: str | None, title: str, preferred: str | None) -> str:
    shown = sanitize(", ".join(splits), 400)
    if wanted is not None:
        if wanted not in splits:
            raise InputError(f"{title} has no split {sanitize(wanted)}; its splits are {shown} (--split)")
        return wanted
    if preferred in splits and preferred is not None:
        return preferred
    if len(splits) != 1:
        raise InputError(f"{title} has several splits, {shown}; name one with split (--split)")
    return splits[0]


@contextmanager
def _bars(progress: bool) -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if progress or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
