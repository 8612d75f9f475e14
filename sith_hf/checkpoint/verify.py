"""Compare an edited checkpoint with its base and its spec, tensor by tensor and file by file."""

from __future__ import annotations

import filecmp
import math
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.checkpoint.contents import EARLIER, HIDDEN, OTHER_WEIGHTS, SITH, contents, own_card, record
from sith_hf.checkpoint.write import EditedTensors, check_base, locate
from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_bytes
from sith_hf.edits import AnySpec, EditSpec
from sith_hf.errors import InputError, SithError
from sith_hf.hub import CARD
from sith_hf.towers import CONFIGS, Checkpoint, check_config, family_of_config, published, read_config
from sith_hf.world import EMBEDDED


@dataclass(frozen=True)
class Verification:
    """The findings of :func:`verify`.

    Attributes:
        edited: the number of tensors that are the base with the spec applied.
        identical: the number of tensors with the bytes of the base.
        files: the number of other files with the bytes of the base.
        deviation: the largest distance of an edited entry from its expected value, in units of the dtype's rounding
            at that entry; 0 if the bytes are equal.
        problems: one sentence for each difference.
    """

    edited: int
    identical: int
    files: int
    deviation: float
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Return whether there are no problems."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; an infinite deviation becomes None."""
        deviation = self.deviation if math.isfinite(self.deviation) else None
        return {**vars(self), "deviation": deviation, "problems": list(self.problems), "ok": self.ok}


def verify(
    edited: str | Path, base: str | Path | None = None, spec: AnySpec | None = None, *, progress: bool = False
) -> Verification:
    """Check that ``edited`` is ``base`` with ``spec`` applied, and nothing else. Differences are returned, not raised.

    Args:
        edited: folder or Hub id of the edited checkpoint.
        base: folder or Hub id of its base; when None, the one named in the spec: a Hub id, or a folder of this name
            in the current folder or beside ``edited``.
        spec: the edit; when None, the one in the folder's ``sith/``.
        progress: show a bar on stderr.

    Raises:
        InputError, ArtifactError: a checkpoint or the spec is missing or damaged.
        BaseMismatch: ``base`` is not the base of the spec.
    """
    theirs = Checkpoint.read(locate(edited))
    spec = spec or EditSpec.from_pretrained(theirs.folder)
    ours = Checkpoint.read(_base_of(spec, theirs.folder) if base is None else locate(base))
    check_base(ours, spec)
    expected = EditedTensors(ours, spec)
    problems: list[str] = []
    for key in sorted(set(ours.where) ^ set(theirs.where)):
        problems.append(f"tensor {key} is only in the {'base' if key in ours.where else 'edited checkpoint'}")
    identical = changed = 0
    worst = 0.0
    for key in tqdm(sorted(set(ours.where) & set(theirs.where)), desc="verifying", unit="tensor", disable=not progress):
        here, there = ours.where[key].entries[key], theirs.where[key].entries[key]
        if (here.dtype, here.shape) != (there.dtype, there.shape):
            problems.append(f"tensor {key} is {there.dtype} {list(there.shape)}, not {here.dtype} {list(here.shape)}")
        elif key in expected:
            distance = roundings_apart(theirs.tensor(key), expected[key])
            worst = max(worst, distance)
            # Another machine may round the same sum the other way, but no further.
            if distance > 1:
                problems.append(f"tensor {key} is not the base with the edit: {distance:.3g} roundings away")
            else:
                changed += 1
        elif all(a == b for a, b in zip_longest(ours.where[key].chunks(key), theirs.where[key].chunks(key))):
            identical += 1
        else:
            problems.append(f"tensor {key} differs from the base, but the edit does not touch it")
    same, differences = _compare_files(ours, theirs)
    problems += differences
    # A base that does not load has no edit that does.
    return Verification(changed, identical, same, worst, tuple(problems or _not_loadable(theirs)))


def _not_loadable(checkpoint: Checkpoint) -> list[str]:
    """Return why ``from_pretrained`` would not load a checkpoint whole; empty if it does."""
    try:
        checkpoint.settings()  # raises for a damaged configuration
        raw = read_config(checkpoint.folder)
        check_config(raw, family_of_config(raw)[1], checkpoint)
    except SithError as error:
        return [f"transformers cannot load it: {error}"]
    return []


def _base_of(spec: AnySpec, edited: Path) -> Path:
    """Return the folder of the base that a spec names: on the Hub, or a folder here or beside ``edited``.

    An edit records no more of a local base than the last part of its path.
    """
    name, revision = spec.base.name, spec.base.revision
    advice = "name the base's folder or Hub id (--base)"
    try:
        if revision is not None or name == EMBEDDED:
            return locate(name, revision)
    except InputError as error:
        raise InputError(f"{error}. This is the base that the edit names: {advice}") from None
    for place in (Path(name), edited.parent / name, edited.parent.parent / name):
        if place.is_dir():
            return place
    raise InputError(f"the edit is of a local checkpoint called {sanitize(name)!r}, which is not here: {advice}")


def roundings_apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest distance of entries in units of the rounding of their dtype; infinity for NaN."""
    if torch.equal(found, expected):
        return 0.0
    info = torch.finfo(expected.dtype)
    wide = expected.double()
    unit = (wide.abs() * info.eps).clamp(min=info.tiny * info.eps)
    distance = ((found.double() - wide).abs() / unit).nan_to_num(nan=float("inf"))
    return float(distance.max())


def _compare_files(ours: Checkpoint, theirs: Checkpoint) -> tuple[int, list[str]]:
    """Return how many other files are the same, and the differences.

    Files of the base that are not part of a checkpoint may be missing. The edited checkpoint has its own card, whose
    pictures the base lacks.
    """
    base, edited = contents(ours), contents(theirs)
    here = dict(base.files)
    there = {name: path for name, path in edited.files.items() if name in here or name not in edited.pictures}
    problems = []
    for name, reason in edited.left_out.items():
        if reason == OTHER_WEIGHTS:
            problems.append(f"file {name} holds weights in another format, without the edit")
        elif reason not in (HIDDEN, EARLIER):
            there[name] = theirs.folder / name
            if reason == base.left_out.get(name):  # it was included, or copied by an earlier release
                here[name] = ours.folder / name
    card, kept = own_card(ours.folder), record(theirs.folder).get(f"base/{CARD}")
    if card is not None and kept is not None:
        here[CARD], there[CARD] = card, kept
    elif (card is None) != (kept is None) and (theirs.folder / SITH).is_dir():
        problems.append(f"file {CARD} of the base is {'missing' if kept is None else 'recorded, but it has none'}")
    problems += [f"file {name} is not in the base" for name in there if name not in here]
    problems += [f"file {name} of the base is missing" for name in here if name not in there]
    shared = [name for name in here if name in there]
    different = [name for name in shared if not _same(name, here[name], there[name])]
    problems += [f"file {name} differs from the base's" for name in different]
    return len(shared) - len(different), problems


def _same(name: str, ours: Path, theirs: Path) -> bool:
    same = filecmp.cmp(ours, theirs, shallow=False)
    return same or (name in CONFIGS and published(ours) == read_bytes(theirs))
