"""Copy a checkpoint with an edit written in, and remove the edit again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.cards import config_of
from sith_hf.checkpoint.card import effect_bytes, folder_effect, write_card
from sith_hf.checkpoint.contents import SITH, Contents, contents, own_card, record
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.reading import read_bytes
from sith_hf.core.short_repr import short_repr
from sith_hf.edits import EDIT_SPEC_LAYOUT, EFFECT, AnySpec, EditEffect, EditSpec
from sith_hf.errors import ArtifactError, BaseMismatch, HubError, InputError
from sith_hf.files import new_folder, write_whole
from sith_hf.hub import CARD, fetch_snapshot, is_generated_file, not_found
from sith_hf.towers import INDEX, Checkpoint, checkpoint_path, is_checkpoint


@short_repr
@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that was written.

    Attributes:
        folder: its folder.
        changed: canonical tensor name to the largest absolute change of an entry.
        left_out: files of the source that were not copied; the name of a folder ends with a slash.
        reasons: each of them to the reason.
        effect: what the edit does to the concepts that it names; None if that was not measured.
    """

    folder: Path
    changed: Mapping[str, float]
    left_out: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    effect: EditEffect | None = None


Measure = Callable[[Path, AnySpec, EditEffect | None], EditEffect | None]
"""Measures an edit of the checkpoint in a folder; the last argument is its effect in the target, if that has it."""


def locate(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder of a checkpoint, the embedded one, or the snapshot of a Hub repository, downloaded if needed.

    Raises:
        InputError: ``name`` is neither a folder nor a repository that can be downloaded.
    """
    path = checkpoint_path(name)
    if path is not None:
        return path
    try:
        return fetch_snapshot(str(name), revision=revision, token=token)
    except HubError as error:
        raise InputError(not_found(name, error)) from None


def history(folder: Path) -> tuple[AnySpec, ...]:
    """Return the edits recorded in a checkpoint's ``sith/``, newest first. Raises ArtifactError for a damaged one."""
    found, place = [], folder / SITH
    while (place / EDIT_SPEC_LAYOUT.filename).is_file():
        found.append(EditSpec.from_pretrained(place / EDIT_SPEC_LAYOUT.filename))
        place = place / "base"
    return tuple(found)


def save_edited(
    source: str | Path,
    spec: AnySpec,
    target: str | Path,
    *,
    include: Iterable[str] = (),
    overwrite: bool = False,
    token: str | None = None,
    measure: Measure | None = None,
    progress: bool = False,
) -> SavedCheckpoint:
    """Write a copy of the checkpoint ``source`` with ``spec`` written in (Method, sec. 6).

    Only the ``out_proj`` weights and biases of edited layers differ; every other tensor, and every other file that
    belongs to the model, has the same bytes (see :mod:`sith_hf.checkpoint.contents`). ``README.md`` describes the
    edit. The spec goes into the folder ``sith/``; the source's ``README.md`` and ``sith/`` move to ``sith/base/``, so
    that :func:`revert` can restore them. One layer's tensors at a time are in memory; files are copied by the kernel,
    never linked (see :meth:`sith_hf.towers.weights.Shard.copy`).

    Args:
        source: a folder or Hub id; float32, float16 or bfloat16 safetensors, sharded or not.
        spec: the edit, of one tower or of both.
        target: a folder that does not exist, is empty, or already holds this very result, which then stays.
        include: patterns of more files of the source to copy, such as ``*.txt``: no links, pickles or other weights.
        overwrite: replace another checkpoint in ``target``, once the new one is complete.
        token: a Hub token; the one of the environment or login when None.
        measure: measures the effect of the edit before anything is written; it goes into ``sith/effect.json`` and the
            card. Not measured when None.
        progress: show a bar on stderr.

    Raises:
        InputError: a spec that changes nothing, or that has no effect on what it names, a target that is not empty, a
            damaged source, or a file that cannot be included.
        BaseMismatch: the source is not the base that the spec was made for.
        OutputError: the copy could not be written; ``target`` is unchanged.
    """
    if not spec:
        raise InputError("the edit changes nothing: every gain is 1")
    if spec.reverts:
        raise InputError("this spec removes an edit: use revert on the edited checkpoint")
    # The revision is valid only for the base named in the spec.
    revision = spec.base.revision if str(source) == spec.base.name else None
    checkpoint = Checkpoint.read(locate(source, revision, token))
    found, card = contents(checkpoint, include), own_card(checkpoint.folder)
    check_base(checkpoint, spec)
    config_of(checkpoint.folder, spec)  # before the work; the card names the architecture
    edited = EditedTensors(checkpoint, spec)
    changed, sha256 = edited.survey()
    if not any(changed.values()):
        raise InputError("the edit changes nothing: every change is lost in the rounding of the checkpoint's dtype")
    earlier = record(checkpoint.folder) | ({} if card is None else {CARD: card})
    edit = spec.with_edited_sha256(sha256)
    again = partial(_has_edit, edit)
    _check_replaced(Path(target), checkpoint.folder, overwrite)
    with new_folder(Path(target), source=checkpoint.folder, overwrite=overwrite, repeats=again) as folder:
        known = None if overwrite else _known_effect(Path(target), edit)
        effect = None if measure is None else measure(checkpoint.folder, edit, known)
        if effect is not None:
            effect.check()
        _copy(checkpoint, found, folder, edited, progress)
        _copy_files({f"{SITH}/base/{name}": path for name, path in earlier.items()}, folder)
        edit.save_pretrained(folder / SITH)
        if effect is not None:
            write_whole(folder / SITH / EFFECT, effect_bytes(effect))
        write_card(folder)
    return SavedCheckpoint(Path(target), changed, tuple(found.left_out), found.left_out, effect)


def measured(effect: EditEffect | None) -> Measure:
    """Return a measurement whose result is at hand; it raises InputError for another edit."""

    def known(folder: Path, spec: AnySpec, earlier: EditEffect | None) -> EditEffect | None:
        if effect is not None and not effect.is_of(spec):
            raise InputError("this effect was measured for another edit: measure it again")
        return effect

    return known


def _known_effect(target: Path, spec: AnySpec) -> EditEffect | None:
    """Return the effect of an edit that a folder records; None if it has none, or that of another edit."""
    with suppress(InputError, ArtifactError):
        effect = folder_effect(target)
        return effect if effect is not None and effect.is_of(spec) else None
    return None


def revert(
    source: str | Path,
    target: str | Path,
    *,
    include: Iterable[str] = (),
    overwrite: bool = False,
    progress: bool = False,
) -> SavedCheckpoint:
    """Write a copy of an edited checkpoint with its edit removed: the base, to within rounding.

    Tensors that the edit did not touch keep their bytes; the others differ from the base by at most the rounding of
    two additions in the checkpoint's dtype.

    Args:
        source: an edited checkpoint: a folder or Hub id with ``sith/edit_spec.safetensors``.
        target, include, overwrite, progress: as for :func:`save_edited`.

    Raises:
        InputError, ArtifactError: the source is not an edited checkpoint, or the target is not empty.
        BaseMismatch: the weights have changed since the edit.
        OutputError: the copy could not be written; ``target`` is unchanged.
    """
    checkpoint = Checkpoint.read(locate(source))
    spec = EditSpec.from_pretrained(checkpoint.folder)
    if spec.edited_sha256 is None or not spec.touched_keys <= set(spec.edited_sha256):
        raise InputError(
            f"{source}: its edit spec has no fingerprints of the edited weights; only output of save-edited has them"
        )
    here = {key: tensor_sha256(checkpoint.tensor(key)) for key in spec.edited_sha256}
    BaseRef("the edit recorded in sith/", None, spec.edited_sha256).check(here, str(source))
    for part in spec.parts:
        check_names(checkpoint, part)
    restored = EditedTensors(checkpoint, spec.inverse())
    changed, sha256 = restored.survey()
    earlier, recorded = _earlier_spec(checkpoint, spec, sha256), record(checkpoint.folder)
    # The name of a file of the base in this folder is the one that it had, below base/.
    before = {name.removeprefix("base/"): path for name, path in recorded.items() if name.startswith("base/")}
    found, card = contents(checkpoint, include), before.pop(CARD, None) or own_card(checkpoint.folder)
    again = partial(_has_edit, earlier)
    _check_replaced(Path(target), checkpoint.folder, overwrite)
    with new_folder(Path(target), source=checkpoint.folder, overwrite=overwrite, repeats=again) as folder:
        _copy(checkpoint, found, folder, restored, progress)
        _copy_files({f"{SITH}/{name}": path for name, path in before.items()}, folder)
        if earlier is not None:
            earlier.save_pretrained(folder / SITH)
        # Without a recorded card of the base, keep only one that somebody wrote.
        if card is not None and not (card == checkpoint.folder / CARD and is_generated_file(card)):
            _copy_files({CARD: card}, folder)
    return SavedCheckpoint(Path(target), changed, tuple(found.left_out), found.left_out)


def _check_replaced(target: Path, source: Path, overwrite: bool) -> None:
    """Raise InputError for a folder that is no checkpoint, and so never replaced: it may hold anything."""
    if not overwrite or is_checkpoint(target) or not os.path.isdir(target):
        return
    if os.listdir(target) and target.resolve() not in source.resolve().parents:  # new_folder refuses that
        raise InputError(f"{target} is not empty and holds no checkpoint (config.json); name a new folder")


def _has_edit(spec: AnySpec | None, folder: Path) -> bool:
    """Return whether a folder is a checkpoint whose newest edit has the weights of ``spec``; None is no edit."""
    with suppress(ArtifactError):
        if not is_checkpoint(folder):
            return False
        found = next(iter(history(folder)), None)
        return (found and found.edited_sha256) == (spec and spec.edited_sha256)
    return False


def _earlier_spec(checkpoint: Checkpoint, spec: AnySpec, restored: Mapping[str, str]) -> AnySpec | None:
    """Return the edit before ``spec``, with the fingerprints of the restored tensors; None if there is none.

    Restored tensors are those of the earlier edit only to within rounding; with its own fingerprints it could not be
    reverted.
    """
    path = checkpoint.folder / SITH / "base"
    if not (path / EDIT_SPEC_LAYOUT.filename).is_file():
        return None
    earlier = EditSpec.from_pretrained(path)
    known, base = dict(earlier.edited_sha256 or {}), spec.base.sha256
    known |= {key: new for key, new in restored.items() if key in known and known[key] == base.get(key)}
    return earlier.with_edited_sha256(known or None)


def check_base(checkpoint: Checkpoint, spec: AnySpec) -> None:
    """Check that the checkpoint has the towers and tensors that the spec was made for.

    Raises:
        BaseMismatch: other tensors, another family, or another tower.
        UnsupportedModel: the spec changes a layer that the model does not read.
    """
    for part in spec.parts:
        checkpoint.check_place(part.place.family, part.tower, part.layers)
        check_names(checkpoint, part)
        _check_part(checkpoint, part)


def check_names(checkpoint: Checkpoint, spec: EditSpec) -> None:
    """Check that the tensors that a spec names are output projections: a file could name any tensor of their shape.

    Raises:
        BaseMismatch: other tensors.
    """
    place = spec.place
    if place.to_json() is not None:  # else they are those of CLIP's vision tower
        checkpoint.check_outputs(place.tower, {layer: place.names(layer) for layer in spec.layers})


def _check_part(checkpoint: Checkpoint, spec: EditSpec) -> None:
    if not spec.touched_keys <= set(spec.base.sha256):
        raise BaseMismatch("the edit has no fingerprints of the weights that it was made for; make it again")
    found = {key: tensor_sha256(checkpoint.tensor(key)) for key in spec.base.sha256 if key in checkpoint.where}
    for key, sha256 in found.items():
        if sha256 != spec.base.sha256[key]:
            _check_rounded(checkpoint, key, spec.base.sha256[key])
            break
    spec.base.check(found, str(checkpoint.folder), checkpoint.settings(spec.tower))


def _check_rounded(checkpoint: Checkpoint, key: str, wanted: str) -> None:
    """Raise BaseMismatch if the tensor has the fingerprint ``wanted`` once it is rounded to half precision."""
    tensor = checkpoint.tensor(key)
    for half in (torch.float16, torch.bfloat16):
        if tensor.dtype != half and tensor_sha256(tensor.to(half)) == wanted:
            raise BaseMismatch(
                f"this was made from weights that were loaded in {half}, but the files in {checkpoint.folder} hold "
                f"{tensor.dtype}: load them with dtype={checkpoint.dtype} or SithEditor.from_pretrained, and make the "
                "edit again"
            )


class EditedTensors(Mapping[str, Tensor]):
    """The tensors that an edit changes, by canonical name, with the edit applied; one layer's are held at a time.

    Reading one raises InputError if it is missing, of a dtype that cannot be edited, or not finite before or after
    the edit, and BaseMismatch if it has another shape.
    """

    def __init__(self, checkpoint: Checkpoint, spec: AnySpec) -> None:
        self._checkpoint = checkpoint
        self._layer_of = {
            name: (part, layer)
            for part in spec.parts
            for layer in part.layers
            for name in part.place.names(layer)
            if name is not None
        }
        self._held: dict[str, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._layer_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer_of)

    def __contains__(self, key: object) -> bool:
        return key in self._layer_of

    def __getitem__(self, key: str) -> Tensor:
        return self._pair(key)[1]

    def survey(self) -> tuple[dict[str, float], dict[str, str]]:
        """Return the largest absolute change of each tensor, and its fingerprint after the edit."""
        sizes, prints = {}, {}
        for key in self:
            before, after = self._pair(key)
            sizes[key], prints[key] = float((after.double() - before).abs_().max()), tensor_sha256(after)
            del before, after  # free them before the next layer is read
        self._held = {}
        return sizes, prints

    def _pair(self, key: str) -> tuple[Tensor, Tensor]:
        """Return a tensor before and after the edit."""
        if key not in self._held:
            self._held = {}  # free one layer before reading the next
            self._held = self._read(*self._layer_of[key])
        return self._held[key]

    def _read(self, spec: EditSpec, layer: int) -> dict[str, tuple[Tensor, Tensor]]:
        keys = spec.place.names(layer)
        weight, bias = (None if key is None else self._checkpoint.tensor(key) for key in keys)
        assert weight is not None
        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise InputError(f"{keys[0]} is {weight.dtype}; an edit needs floating-point weights of 16, 32 or 64 bits")
        after = spec.apply(layer, weight, bias)
        pairs = zip(keys, (weight, bias), after, strict=True)
        found = {key: (old, new) for key, old, new in pairs if key is not None and old is not None and new is not None}
        for key, (before, edited) in found.items():
            if not torch.isfinite(before).all():
                raise InputError(f"{key} in {self._checkpoint.folder} holds NaN or infinity: download it again")
            if not torch.isfinite(edited).all():
                raise InputError(f"{key} would overflow {edited.dtype}: use smaller gains, or a float32 checkpoint")
        return found


def _copy(checkpoint: Checkpoint, found: Contents, folder: Path, changed: EditedTensors, progress: bool) -> None:
    with tqdm(total=len(checkpoint.shards) + 1, desc="writing", unit="file", disable=not progress) as bar:
        for shard in checkpoint.shards:
            shard.copy(folder / shard.path.name, changed)
            bar.update()
        _copy_files(found.files, folder)
        bar.update()
    if checkpoint.index is not None:
        renamed = checkpoint.canonical_index()
        (folder / INDEX).write_bytes(read_bytes(checkpoint.folder / INDEX) if renamed is None else renamed)


def _copy_files(files: Mapping[str, Path], folder: Path) -> None:
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
