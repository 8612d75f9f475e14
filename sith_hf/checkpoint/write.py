"""Copy a checkpoint with an edit written in; and take the edit out again."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.cards import edited_card
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.edits import EDIT_SPEC_LAYOUT, EditSpec
from sith_hf.errors import BaseMismatch, HubError, InputError
from sith_hf.files import new_folder
from sith_hf.hub import CARD, OTHER_WEIGHTS, fetch_snapshot, is_generated, is_repo_id
from sith_hf.towers import INDEX, Checkpoint, tensor_key

SITH = "sith"

# The card of the base in the repository of an edited checkpoint, so that a revert can put it back.
BASE_CARD = f"{SITH}/base_card.md"


@dataclass(frozen=True)
class SavedCheckpoint:
    """What was written.

    Attributes:
        folder: where.
        changed: canonical tensor name to the largest absolute change of an entry.
        left_out: files of the source that hold its weights in another format, and were not copied.
    """

    folder: Path
    changed: Mapping[str, float]
    left_out: tuple[str, ...]


def locate(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a checkpoint: itself, or the snapshot of a Hub repository, downloaded if needed.

    Raises:
        InputError: neither a folder nor a repository that can be fetched.
    """
    if os.path.isdir(name):  # unlike Path.is_dir, it has no errors of its own
        return Path(name)
    if not is_repo_id(str(name)):
        raise InputError(f"{name}: no such folder (and not the id of a Hub repository)")
    try:
        return fetch_snapshot(str(name), revision=revision, token=token)
    except HubError as error:
        raise InputError(f"{name}: not a local folder, and {error}") from None


def history(folder: Path) -> tuple[EditSpec, ...]:
    """The edits recorded in a checkpoint's ``sith/``, the newest first; empty where it was not edited by sith-hf.

    Raises:
        ArtifactError: a record is damaged.
    """
    found, place = [], folder / SITH
    while (place / EDIT_SPEC_LAYOUT.filename).is_file():
        found.append(EditSpec.from_pretrained(place / EDIT_SPEC_LAYOUT.filename))
        place = place / "base"
    return tuple(found)


def save_edited(
    source: str | Path,
    spec: EditSpec,
    target: str | Path,
    *,
    overwrite: bool = False,
    token: str | None = None,
    progress: bool = False,
) -> SavedCheckpoint:
    """Write a copy of the checkpoint ``source`` with ``spec`` written in (Method, sec. 6).

    Only the ``out_proj`` weights and biases of edited layers differ; every other tensor and every other file has
    the same bytes. The spec and a card go into the folder ``sith/``. A ``sith/`` of the source moves to
    ``sith/base/``, so that reverting brings it back. One layer's tensors at a time are in memory; files are copied
    by the kernel, never linked (see :meth:`sith_hf.towers.weights.Shard.copy`).

    Args:
        source: a folder or Hub id; float32, float16 or bfloat16 safetensors, sharded or not.
        spec: what to write in.
        target: a folder that does not exist or is empty.
        overwrite: replace a ``target`` that is not empty; the old one goes when the new one is whole.
        token: for the Hub; the usual places when None.
        progress: show a bar on stderr.

    Raises:
        InputError: a spec that would change nothing, a target in use, a damaged source.
        BaseMismatch: the source is not the base that the spec was made for.
        OutputError: the copy could not be written; nothing stands under ``target``.
    """
    if not spec:
        raise InputError("the edit changes nothing: no vector has a gain other than 1")
    if spec.reverts:
        raise InputError("this spec takes an edit away: use revert on the edited checkpoint")
    # The revision belongs to the base that the spec names, and means nothing elsewhere.
    revision = spec.base.revision if str(source) == spec.base.name else None
    checkpoint = Checkpoint.read(locate(source, revision, token))
    check_base(checkpoint, spec)
    edited = EditedTensors(checkpoint, spec)
    changed, sha256 = edited.survey()
    if not any(changed.values()):
        raise InputError("the edit changes nothing: every change is lost in the rounding of the checkpoint's dtype")
    record = replace(spec, edited_sha256=sha256)
    with new_folder(Path(target), source=checkpoint.folder, overwrite=overwrite) as folder:
        _copy(checkpoint, folder, edited, progress)
        _copy_tree(checkpoint.folder / SITH, folder / SITH / "base")
        record.save_pretrained(folder / SITH)
        (folder / SITH / "README.md").write_text(edited_card(record), encoding="utf-8")
    return SavedCheckpoint(Path(target), changed, other_weights(checkpoint))


def revert(
    source: str | Path, target: str | Path, *, overwrite: bool = False, progress: bool = False
) -> SavedCheckpoint:
    """Write a copy of an edited checkpoint with its edit taken out: the base, to within rounding.

    Tensors that the edit did not touch have their bytes; those that it did differ from the base by at most the
    rounding of two additions in the checkpoint's dtype.

    Args:
        source: an edited checkpoint: a folder or Hub id with ``sith/edit_spec.safetensors``.
        target, overwrite, progress: as for :func:`save_edited`.

    Raises:
        InputError, ArtifactError: no edited checkpoint, or a target in use.
        BaseMismatch: the weights are not the ones that the edit left.
        OutputError: the copy could not be written; nothing stands under ``target``.
    """
    checkpoint = Checkpoint.read(locate(source))
    spec = EditSpec.from_pretrained(checkpoint.folder)
    if spec.edited_sha256 is None or not spec.touched_keys <= set(spec.edited_sha256):
        raise InputError(
            f"{source}: its edit spec does not say what the edited weights are; it was not saved by save-edited"
        )
    found = {key: tensor_sha256(checkpoint.tensor(key)) for key in spec.edited_sha256}
    BaseRef("the edit recorded in sith/", None, spec.edited_sha256).check(found, str(source))
    restored = EditedTensors(checkpoint, spec.inverse())
    changed, sha256 = restored.survey()
    earlier = _earlier_spec(checkpoint, spec, sha256)
    with new_folder(Path(target), source=checkpoint.folder, overwrite=overwrite) as folder:
        _copy(checkpoint, folder, restored, progress)
        _copy_tree(checkpoint.folder / SITH / "base", folder / SITH)
        if earlier is not None:
            earlier.save_pretrained(folder / SITH)
        _restore_card(checkpoint.folder, folder)
    return SavedCheckpoint(Path(target), changed, other_weights(checkpoint))


def _restore_card(edited: Path, folder: Path) -> None:
    """Replace the card of a published edit by that of its base, which was published beside it."""
    card, base_card = folder / CARD, edited / BASE_CARD
    if card.is_file() and is_generated(card.read_text(encoding="utf-8", errors="replace")):
        card.unlink()
    if base_card.is_file() and not card.exists():
        shutil.copyfile(base_card, card)


def _earlier_spec(checkpoint: Checkpoint, spec: EditSpec, restored: Mapping[str, str]) -> EditSpec | None:
    """The spec below ``spec`` where an edited checkpoint was edited, with the fingerprints of the restored tensors.

    A restored tensor is what the earlier edit left only to within rounding; without this, it would be taken for
    tampered with, and the earlier edit could not be reverted.
    """
    path = checkpoint.folder / SITH / "base"
    if not (path / EDIT_SPEC_LAYOUT.filename).is_file():
        return None
    earlier = EditSpec.from_pretrained(path)
    known = dict(earlier.edited_sha256 or {})
    for key, sha256 in restored.items():
        if key in known and known[key] == spec.base.sha256.get(key):
            known[key] = sha256
    return replace(earlier, edited_sha256=known or None)


def check_base(checkpoint: Checkpoint, spec: EditSpec) -> None:
    """Raise BaseMismatch unless the checkpoint has the tensors that the spec was made for."""
    if not spec.touched_keys <= set(spec.base.sha256):
        raise BaseMismatch("the edit does not say what weights it was made for; make it again")
    found = {key: tensor_sha256(checkpoint.tensor(key)) for key in spec.base.sha256 if key in checkpoint.where}
    spec.base.check(found, str(checkpoint.folder))


class EditedTensors(Mapping[str, Tensor]):
    """The tensors that a spec changes, by canonical name, with the spec applied; one layer's are held at a time.

    Asking for one raises InputError where it is missing, of a dtype that cannot be edited or not finite, before the
    edit or after it, and BaseMismatch where it has another shape.

    Args:
        checkpoint: what is edited.
        spec: the edit.
        among: the names that are looked at, where they are not all.
    """

    def __init__(self, checkpoint: Checkpoint, spec: EditSpec, among: Collection[str] | None = None) -> None:
        self._checkpoint, self._spec = checkpoint, spec
        layers = {tensor_key(n, part): n for n in spec.layers for part in ("out_weight", "out_bias")}
        self._layer_of = {key: n for key, n in layers.items() if among is None or key in among}
        self._held: tuple[int, dict[str, tuple[Tensor, Tensor]]] = (-1, {})

    def __len__(self) -> int:
        return len(self._layer_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layer_of)

    def __contains__(self, key: object) -> bool:
        return key in self._layer_of

    def __getitem__(self, key: str) -> Tensor:
        return self._pair(key)[1]

    def among(self, keys: Collection[str]) -> EditedTensors:
        """Only those that are among ``keys``."""
        return EditedTensors(self._checkpoint, self._spec, keys)

    def survey(self) -> tuple[dict[str, float], dict[str, str]]:
        """The largest absolute change of each tensor, and its fingerprint after the edit."""
        found = {key: _change(*self._pair(key)) for key in self}
        self._held = (-1, {})
        return {key: size for key, (size, _) in found.items()}, {key: sha256 for key, (_, sha256) in found.items()}

    def _pair(self, key: str) -> tuple[Tensor, Tensor]:
        """One of them before and after the edit."""
        layer = self._layer_of[key]
        if layer != self._held[0]:
            self._held = (-1, {})  # before the next is read
            self._held = layer, self._read(layer)
        return self._held[1][key]

    def _read(self, layer: int) -> dict[str, tuple[Tensor, Tensor]]:
        keys = [tensor_key(layer, part) for part in ("out_weight", "out_bias")]
        weight, bias = (self._checkpoint.tensor(key) for key in keys)
        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise InputError(f"{keys[0]} is {weight.dtype}; an edit needs floating-point weights of 16, 32 or 64 bits")
        found = dict(zip(keys, zip((weight, bias), self._spec.apply(layer, weight, bias), strict=True), strict=True))
        for key, (before, after) in found.items():
            if not torch.isfinite(before).all():
                raise InputError(
                    f"{key} in {self._checkpoint.folder} holds NaN or infinity: fetch the checkpoint again"
                )
            if not torch.isfinite(after).all():
                raise InputError(f"{key} would overflow {after.dtype}: use smaller gains, or a float32 checkpoint")
        return found


def other_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """The files beside the weights that a copy carries over, by relative name: all but sith/ and other_weights."""
    skip = {*other_weights(checkpoint), *(shard.path.name for shard in checkpoint.shards), INDEX}
    found = {}
    for path in sorted(checkpoint.folder.rglob("*")):
        relative = path.relative_to(checkpoint.folder)
        if path.is_file() and relative.parts[0] not in (SITH, ".git", ".cache") and str(relative) not in skip:
            found[str(relative)] = path
    return found


def other_weights(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Files that hold the same weights in another format or variant; a copy leaves them out."""
    weights = {INDEX, *(shard.path.name for shard in checkpoint.shards)}
    found = []
    for path in sorted(checkpoint.folder.rglob("*")):
        relative = path.relative_to(checkpoint.folder)
        top = len(relative.parts) == 1 and path.name not in weights
        variant = top and path.name.endswith((".safetensors", ".safetensors.index.json"))
        if path.is_file() and (variant or any(fnmatch.fnmatch(path.name, pattern) for pattern in OTHER_WEIGHTS)):
            found.append(str(relative))
    return tuple(found)


def _change(before: Tensor, after: Tensor) -> tuple[float, str]:
    return float((after.double() - before).abs_().max()), tensor_sha256(after)


def _copy(checkpoint: Checkpoint, folder: Path, changed: EditedTensors, progress: bool) -> None:
    others = other_files(checkpoint)
    with tqdm(total=len(checkpoint.shards) + len(others), desc="writing", unit="file", disable=not progress) as bar:
        for shard in checkpoint.shards:
            shard.copy(folder / shard.path.name, changed.among(shard.entries))
            bar.update()
        for name, path in others.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            bar.update()
    if checkpoint.index is not None:
        renamed = checkpoint.canonical_index()
        (folder / INDEX).write_bytes((checkpoint.folder / INDEX).read_bytes() if renamed is None else renamed)


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
