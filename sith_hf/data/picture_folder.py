"""A local folder of images: which folders are classes, and which are splits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sith_hf.core.escaping import sanitize

# Words that folders of splits have beside "train" or "test".
_FILLERS = {"data", "dataset", "image", "images", "img", "imgs", "pictures", "set", "split"}
# The parts of an image's path below a folder.
_Parts = tuple[str, ...]


@dataclass(frozen=True)
class PictureFolder:
    """The images of a folder.

    Attributes:
        splits: the paths of images below the folder, with the class of each or None, for every split.
        notes: what is left out, or decided, in sentences.
    """

    splits: Mapping[str, Sequence[tuple[str, str | None]]]
    notes: tuple[str, ...]

    def load(self, folder: str) -> dict[str, Any]:
        """Return one ``datasets.Dataset`` for each split, with ``image`` and, if there are classes, ``label``."""
        from datasets import ClassLabel, Dataset, Features, Image
        from datasets.fingerprint import Hasher

        names = sorted({label for rows in self.splits.values() for _, label in rows if label is not None})
        number = {name: index for index, name in enumerate(names)}
        made = {}
        for split, rows in self.splits.items():
            paths = [os.path.join(folder, path) for path, _ in rows]
            columns: dict[str, list[Any]] = {"image": paths}
            features = {"image": Image()}
            if all(label is not None for _, label in rows):
                columns["label"] = [number[str(label)] for _, label in rows]
                features["label"] = ClassLabel(names=names)
            found = Dataset.from_dict(columns, features=Features(features))
            states = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, paths)]
            mark = Hasher.hash([columns, names, states])
            made[split] = Dataset(found.data, info=found.info, fingerprint=mark)
        return made


def arranged(images: Sequence[_Parts]) -> PictureFolder | None:
    """Return the splits and classes of images by their paths, None for what only file names could split.

    ``datasets`` takes every folder with a word such as "test" in its name for a split, and leaves out all others: "test
    tube" among the classes of a folder would be all that it reads. Here, folders are splits if all have names of splits
    and nothing else, or if they have folders of classes. Classes are the folders that hold the images, as for
    ``datasets``; if images lie at several depths, they are the first folders, as for torchvision's ``ImageFolder``.

    Args:
        images: the parts of each path, sorted.
    """
    above: _Parts = ()
    while len(first := {parts[0] for parts in images}) == 1 and all(len(parts) > 2 for parts in images):
        if _split_of(name := min(first)) is not None:
            break
        above, images = (*above, name), [parts[1:] for parts in images]
    if all(len(parts) == 1 for parts in images) and all(_mentions_split(parts[0]) for parts in images):
        return None
    tops: dict[str, list[_Parts]] = {}
    for parts in images:
        tops.setdefault(parts[0] if len(parts) > 1 else "", []).append(parts)
    splits = _splits(tops)
    if splits is None and all(len(parts) > 1 and _mentions_split(parts[-1]) for parts in images):
        return None
    groups: dict[str, list[tuple[_Parts, _Parts]]]
    groups = {"train": [((), parts) for parts in images]} if splits is None else {}
    for name, split in (splits or {}).items():
        groups.setdefault(split, []).extend(((name,), parts[1:]) for parts in tops[name])
    found: dict[str, list[tuple[str, str | None]]] = {}
    outside = 0 if splits is None else sum(len(paths) for name, paths in tops.items() if name not in splits)
    notes: list[str] = []
    for split, rows in groups.items():
        in_classes = [row for row in rows if len(row[1]) > 1]
        label, note = _classes([parts for _, parts in in_classes])
        outside += len(rows) - len(in_classes) if in_classes else 0
        found[split] = [
            (os.path.join(*above, *prefix, *parts), parts[label] if in_classes else None)
            for prefix, parts in in_classes or rows
        ]
        notes += [note] if note and note not in notes else []
    if outside:
        kind = "classes" if splits is None else "splits"
        notes.insert(0, f"not read: images outside the folders of {kind} ({outside})")
    return PictureFolder(found, tuple(notes))


def _splits(tops: Mapping[str, Sequence[_Parts]]) -> dict[str, str] | None:
    """Return the split of each folder that is one, None if the folders are classes."""
    folders = [name for name in tops if name]
    nested = {name: all(len(parts) > 2 for parts in tops[name]) for name in folders}
    exact = {name: split for name in folders if (split := _split_of(name)) is not None}
    if len(exact) < len(folders):
        exact = {name: split for name, split in exact.items() if nested[name]}
    if not exact and folders and all(nested.values()):  # such as imagenet-train
        loose = {name: split for name in folders if (split := _split_of(name, strict=False)) is not None}
        exact = loose if len(loose) == len(folders) else {}
    if not exact or len(set(exact.values())) < len(exact):
        return None
    return dict(sorted(exact.items(), key=lambda item: ("train", "validation", "test").index(item[1])))


def _classes(images: Sequence[_Parts]) -> tuple[int, str | None]:
    """Return which part of a path is the class, and a note if another part could be it."""
    depths = {len(parts) for parts in images}
    if len(depths) == 1 and depths != {2} and len({parts[-2] for parts in images}) > 1:
        parts = images[0]
        last, first = sanitize(parts[-2], 60), sanitize(parts[0], 60)
        return -2, f"classes are the folders that hold the images ({last}), not those above ({first})"
    return 0, None


def _split_of(name: str, strict: bool = True) -> str | None:
    """Return the split that a folder's name says, None if it has several or, if ``strict``, any other word."""
    from datasets.data_files import SPLIT_KEYWORDS

    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
    found = [str(split) for split, keywords in SPLIT_KEYWORDS.items() for word in words if word in keywords]
    others = [word for word in words if word not in _FILLERS]
    return found[0] if len(found) == 1 and (not strict or len(others) == 1) else None


def _mentions_split(file: str) -> bool:
    """Return whether ``datasets`` takes a file for one of a split by its name."""
    from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS

    words = re.split(f"[{NON_WORDS_CHARS}]", file)[:-1]
    return any(word in keywords for keywords in SPLIT_KEYWORDS.values() for word in words)
