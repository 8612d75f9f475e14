"""Load a model and its tokenizer by folder or Hub id; safetensors only."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from sith_hf.core.devices import find_device, find_dtype
from sith_hf.core.escaping import one_line
from sith_hf.core.reading import json_fields
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import HubError, InputError, NotOnHub, UnsupportedModel
from sith_hf.hub import cached_snapshot, fetch_file, fetch_snapshot, local_path, not_found
from sith_hf.towers.config import attention, check_config
from sith_hf.towers.config_file import read_config
from sith_hf.towers.family import TowerFamily
from sith_hf.towers.folder_format import OPEN_CLIP, TRANSFORMERS, folder_format
from sith_hf.towers.model_class import model_class
from sith_hf.towers.model_settings import UNUSABLE
from sith_hf.towers.open_clip import open_clip_tokenizer
from sith_hf.towers.open_clip_config import ARCHITECTURE
from sith_hf.towers.registry import family_of_config
from sith_hf.towers.tokenizer import load_tokenizer
from sith_hf.towers.weights import Checkpoint, check_folder
from sith_hf.world import EMBEDDED, embedded_checkpoint

_LOG = logging.getLogger(__name__)


@short_repr
@dataclass(frozen=True)
class LoadedModel:
    """A model and its source.

    Attributes:
        model: the ``transformers`` model, in evaluation mode; in the narrowest dtype that holds its weights exactly,
            unless ``dtype`` is another.
        tokenizer: its tokenizer; None without a text tower.
        name: the Hub id or folder it was loaded from; the id for a snapshot in the Hub's cache.
        revision: the commit on the Hub; None for any other folder.
        folder: the folder of its files; None for a model in memory.
        device: where passes run; None leaves the choice to each step: an accelerator, if there is one.
        dtype: the dtype that was asked for; None for that of the files.
        rounded: whether ``dtype`` rounds the weights of the files.
    """

    model: Any = field(repr=False)
    tokenizer: Any | None = field(repr=False)
    name: str
    revision: str | None
    folder: Path | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    rounded: bool = False

    def require_exact(self) -> None:
        """Raise InputError if loading rounded the weights: an edit of them does not fit the files."""
        if self.rounded:
            raise InputError(
                f"dtype {str(self.dtype).removeprefix('torch.')} rounds the weights of {self.name}, and an edit is of "
                "the weights in its files: use auto or float32"
            )

    @property
    def title(self) -> str:
        """The name in artifacts: the Hub id, ``embedded``, or the last part of a folder's path, wherever it lies."""
        if self.revision is not None or not (os.path.isdir(self.name) or os.path.isabs(self.name)):
            return self.name
        full = os.path.abspath(self.name)
        return EMBEDDED if full == str(embedded_checkpoint()) else os.path.basename(full)


def checkpoint_path(name: str | Path) -> Path | None:
    """Return the file or folder that ``name`` is, or the embedded checkpoint; None if only the Hub may have it.

    Raises:
        InputError: nothing here has this name, and no repository can have it.
    """
    found = local_path(name)
    return embedded_checkpoint() if found is None and str(name) == EMBEDDED else found


def load_model(
    name: str,
    revision: str | None = None,
    *,
    want_text: bool = False,
    token: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> LoadedModel:
    """Load a model of a supported family by folder or Hub id.

    Args:
        name: a local folder, a Hub id, or ``embedded``.
        revision: branch, tag or commit on the Hub.
        want_text: require a text tower (for a companion).
        token: a Hub token; the one of the environment or login when None.
        device, dtype: as for :meth:`sith_hf.editor.SithEditor.from_pretrained`.

    Raises:
        UnsupportedModel: another family or architecture, or a checkpoint without safetensors.
        InputError: no checkpoint, one that is damaged or incomplete, or a device that is not there.
    """
    name, device, dtype = str(name), find_device(device), find_dtype(dtype)
    local = checkpoint_path(name)
    # Read the configuration first, so that other models are not downloaded.
    folder = local or _fetched(name, lambda: _fetch_config(name, revision, token))
    if not folder.is_dir():
        raise InputError(f"{name} is not a folder: name the folder of a checkpoint")
    if folder_format(folder) is TRANSFORMERS:
        check_folder(folder, name)
    _, family, architecture = _read_config(folder, name)
    if want_text and not family.has_text(architecture):
        raise UnsupportedModel(
            f"{name} is a {architecture} without a text tower and its projection: a text model must be a whole model "
            "of images and texts, such as a CLIPModel"
        )
    if local is None:
        if not any(folder.rglob("*.safetensors")):
            _LOG.info("downloading %s from the Hub", name)
        # Load the same commit as the configuration.
        folder = _fetched(name, lambda: fetch_snapshot(name, revision=folder.name, token=token))
    # Only a whole folder shows whether its weights are of transformers or of open_clip.
    raw, family, architecture = _read_config(folder, name)
    checkpoint = Checkpoint.read(folder)
    try:
        config = check_config(raw, architecture, checkpoint)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from None
    if ours := folder_format(folder) is OPEN_CLIP:
        model = _of_open_clip(config, checkpoint, dtype or checkpoint.dtype)
    else:
        model = _of_transformers(folder, name, architecture, config, dtype or checkpoint.dtype)
    own = checkpoint.dtype
    rounded = dtype is not None and own is not None and torch.promote_types(dtype, own) != dtype
    if rounded:
        _LOG.warning(
            "warning: %s rounds the weights of %s, which are %s: results are of the rounded weights, and an edit made "
            "with them does not fit the files",
            *(dtype, name, own),
        )
    # A snapshot in the Hub's cache is a commit of a repository, also where its path was given.
    pinned = cached_snapshot(local) if local is not None else (name, folder.name)
    name, revision = pinned or (name, None)
    model.config._name_or_path = name  # not the path in the cache
    _LOG.debug("loaded %s, a %s of %s, from %s", name, architecture, next(model.parameters()).dtype, folder)
    read_tokenizer = open_clip_tokenizer if ours else load_tokenizer
    return LoadedModel(
        model=model.eval(),
        tokenizer=read_tokenizer(folder) if family.has_text(architecture) else None,
        name=name,
        revision=revision,
        folder=folder,
        device=device,
        dtype=dtype,
        rounded=rounded,
    )


def _read_config(folder: Path, name: str) -> tuple[dict[str, Any], TowerFamily, str]:
    """Return the configuration of a folder, its family, and its architecture."""
    raw = read_config(folder)
    try:
        return raw, *family_of_config(raw)
    except InputError as error:
        raise type(error)(f"{name}: {error}") from None


def _fetch_config(name: str, revision: str | None, token: str | None) -> Path:
    """Download the configuration of a repository, that of open_clip too if that of transformers does not do."""
    kinds = (TRANSFORMERS, OPEN_CLIP)
    found = fetch_file(name, [kind.config for kind in kinds], revision=revision, token=token)
    if found.name == TRANSFORMERS.config and "model_type" not in json_fields(found):
        with suppress(NotOnHub):
            fetch_file(name, [OPEN_CLIP.config], revision=found.parent.name, token=token)
    return found.parent


def _of_transformers(folder: Path, name: str, architecture: str, config: Any, dtype: Any) -> Any:
    try:
        model, report = model_class(architecture).from_pretrained(
            folder,
            # The config's dtype may be narrower than the weights, and would round them.
            dtype=dtype or "auto",
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            attn_implementation=attention(config),
        )
    except (*UNUSABLE, SafetensorError) as error:
        raise InputError(f"{name}: the checkpoint could not be loaded as {architecture} ({one_line(error)})") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{name}: transformers finds no {missing[0]}, and would fill it with random numbers")
    return model


def _of_open_clip(config: Any, checkpoint: Checkpoint, dtype: torch.dtype | None) -> Any:
    """Return the model of an open_clip folder that :func:`check_config` has accepted."""
    with torch.device("meta"):
        model = model_class(ARCHITECTURE)(config)
    state = {name: checkpoint.tensor(model.name_on_disk(name)).to(dtype) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    for name in ("logit_scale", "logit_bias"):
        if name in checkpoint.where:
            model.register_parameter(name, nn.Parameter(checkpoint.tensor(name)))
    return model


def _fetched(name: str, fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except HubError as error:
        raise InputError(not_found(name, error)) from None
