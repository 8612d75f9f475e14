"""Copy a checkpoint with an edit written in, and remove the edit again."""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.cards import edited_card
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.reading import card_text, read_bytes
from sith_hf.edits import EDIT_SPEC_LAYOUT, EditSpec
from sith_hf.errors import BaseMismatch, HubError, InputError
from sith_hf.files import new_folder
from sith_hf.hub import CARD, OTHER_WEIGHTS, fetch_snapshot, is_generated, is_repo_id
from sith_hf.towers import INDEX, Checkpoint, tensor_key

SITH = "sith"

# The card of the base in the repository of an edited checkpoint, so that a revert can restore it.
BASE_CARD = f"{SITH}/base_card.md"


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that was written.

    Attributes:
        folder: its folder.
        changed: canonical tensor name to the largest absolute change of an entry.
        left_out: files of the source that were not copied: its weights in another format.
    """

    folder: Path
    changed: Mapping[str, float]
    left_out: tuple[str, ...]


def locate(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return the folder of a checkpoint, or of the snapshot of a Hub repository, downloaded if needed.

    Raises:
        InputError: ``name`` is neither a folder nor a repository that can be downloaded.
    """
    if os.path.isdir(name):  # unlike Path.is_dir, it never raises
        return Path(name)
    if not is_repo_id(str(name)):
        raise InputError(f"{name}: no folder has this name (check the path), and it is no repository id")
    try:
        return fetch_snapshot(str(name), revision=revision, token=token)
    except HubError as error:
        raise InputError(f"{name}: no folder has this name (check the path), and {error}") from None


def history(folder: Path) -> tuple[EditSpec, ...]:
    """Return the edits recorded in a checkpoint's ``sith/``, newest first. Raises ArtifactError for a damaged one."""
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
    ``sith/base/``, so that :func:`revert` can restore it. One layer's tensors at a time are in memory; files are
    copied by the kernel, never linked (see :meth:`sith_hf.towers.weights.Shard.copy`).

    Args:
        source: a folder or Hub id; float32, float16 or bfloat16 safetensors, sharded or not.
        spec: the edit.
        target: a folder that does not exist or is empty.
        overwrite: replace a ``target`` that is not empty, once the new one is complete.
        token: a Hub token; the one of the environment or login when None.
        progress: show a bar on stderr.

    Raises:
        InputError: a spec that changes nothing, a target that is not empty, or a damaged source.
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
    """Write a copy of an edited checkpoint with its edit removed: the base, to within rounding.

    Tensors that the edit did not touch keep their bytes; the others differ from the base by at most the rounding of
    two additions in the checkpoint's dtype.

    Args:
        source: an edited checkpoint: a folder or Hub id with ``sith/edit_spec.safetensors``.
        target, overwrite, progress: as for :func:`save_edited`.

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
        # A published edit has its own card, and that of its base beside it.
        card, base_card = folder / CARD, checkpoint.folder / BASE_CARD
        if card.is_file() and is_generated(card_text(card)):
            card.unlink()
        if base_card.is_file() and not card.exists():
            shutil.copyfile(base_card, card)
    return SavedCheckpoint(Path(target), changed, other_weights(checkpoint))


def _earlier_spec(checkpoint: Checkpoint, spec: EditSpec, restored: Mapping[str, str]) -> EditSpec | None:
    """Return the edit before ``spec``, with the fingerprints of the restored tensors; None if there is none.

    Restored tensors are those of the earlier edit only to within rounding; with its own fingerprints it could not be
    reverted.
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
        raise BaseMismatch("the edit has no fingerprints of the weights that it was made for; make it again")
    found = {key: tensor_sha256(checkpoint.tensor(key)) for key in spec.base.sha256 if key in checkpoint.where}
    spec.base.check(found, str(checkpoint.folder))


class EditedTensors(Mapping[str, Tensor]):
    """The tensors that a spec changes, by canonical name, with the spec applied; one layer's are held at a time.

    Reading one raises InputError if it is missing, of a dtype that cannot be edited, or not finite before or after
    the edit, and BaseMismatch if it has another shape.
    """

    def __init__(self, checkpoint: Checkpoint, spec: EditSpec) -> None:
        self._checkpoint, self._spec = checkpoint, spec
        self._layer_of = {tensor_key(n, part): n for n in spec.layers for part in ("out_weight", "out_bias")}
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
            self._held = self._read(self._layer_of[key])
        return self._held[key]

    def _read(self, layer: int) -> dict[str, tuple[Tensor, Tensor]]:
        keys = [tensor_key(layer, part) for part in ("out_weight", "out_bias")]
        weight, bias = (self._checkpoint.tensor(key) for key in keys)
        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise InputError(f"{keys[0]} is {weight.dtype}; an edit needs floating-point weights of 16, 32 or 64 bits")
        found = dict(zip(keys, zip((weight, bias), self._spec.apply(layer, weight, bias), strict=True), strict=True))
        for key, (before, after) in found.items():
            if not torch.isfinite(before).all():
                raise InputError(f"{key} in {self._checkpoint.folder} holds NaN or infinity: download it again")
            if not torch.isfinite(after).all():
                raise InputError(f"{key} would overflow {after.dtype}: use smaller gains, or a float32 checkpoint")
        return found


def other_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """Return the files that a copy carries over, by relative name: all but weights, sith/, .git/ and .cache/."""
    left_out = other_weights(checkpoint)
    return {
        name: path
        for name, path in _beside_weights(checkpoint).items()
        if name not in left_out and Path(name).parts[0] not in (SITH, ".git", ".cache")
    }


def other_weights(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the files that a copy leaves out: the same weights in another format or variant."""
    found = []
    for name, path in _beside_weights(checkpoint).items():
        variant = name == path.name and name.endswith((".safetensors", ".safetensors.index.json"))
        if variant or any(fnmatch.fnmatch(path.name, pattern) for pattern in OTHER_WEIGHTS):
            found.append(name)
    return tuple(found)


def _beside_weights(checkpoint: Checkpoint) -> dict[str, Path]:
    weights = {INDEX, *(shard.path.name for shard in checkpoint.shards)}
    paths = {str(path.relative_to(checkpoint.folder)): path for path in sorted(checkpoint.folder.rglob("*"))}
    return {name: path for name, path in paths.items() if path.is_file() and name not in weights}


def _copy(checkpoint: Checkpoint, folder: Path, changed: EditedTensors, progress: bool) -> None:
    others = other_files(checkpoint)
    with tqdm(total=len(checkpoint.shards) + len(others), desc="writing", unit="file", disable=not progress) as bar:
        for shard in checkpoint.shards:
            shard.copy(folder / shard.path.name, changed)
            bar.update()
        for name, path in others.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
            bar.update()
    if checkpoint.index is not None:
        renamed = checkpoint.canonical_index()
        (folder / INDEX).write_bytes(read_bytes(checkpoint.folder / INDEX) if renamed is None else renamed)


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
