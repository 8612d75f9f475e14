"""``load_tuned``: a fine-tuned checkpoint, or a base with a LoRA adapter merged in memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from sith_hf.core.escaping import one_line, sanitize
from sith_hf.core.reading import read_json_object
from sith_hf.errors import HubError, InputError, MissingExtra, UnsupportedModel
from sith_hf.files import TensorFile
from sith_hf.hub import fetch_file, local_path
from sith_hf.towers import LoadedModel, checkpoint_path, load_model
from sith_hf.world import EMBEDDED

# peft's two files.
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The settings of a LoRA that decide what it adds. All others are of training, or name files and modules to load.
_SETTINGS = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out", "bias", "lora_bias",
)  # fmt: skip
_MERGE = "save what merge_and_unload() returns with save_pretrained, and name that folder"
# Variants that compute something else, or another model.
_VARIANTS = (
    "layer_replication", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config",
)  # fmt: skip
# Other ways to begin change the base, or read files.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")


def load_tuned(base: LoadedModel, name: str | Path, revision: str | None = None) -> LoadedModel:
    """Load a fine-tuned checkpoint by folder or Hub id; a LoRA adapter of peft is merged into a copy of the base.

    The copy is float32, so that merging rounds nothing away; only the adapter's safetensors are read.

    Args:
        base: what it was fine-tuned from.
        name: a checkpoint, or the folder or repository of an adapter.
        revision: branch, tag or commit on the Hub.

    Raises:
        InputError, UnsupportedModel: as for :func:`sith_hf.towers.load_model`; or an adapter of another kind, for
            another model, or without effect.
        MissingExtra: peft is not installed, and there is an adapter.
    """
    folder = _adapter(str(name), revision)
    if folder is None:
        return load_model(str(name), revision, device=base.device, dtype=base.dtype)
    model = _merged(base.model, folder, str(name))
    local = local_path(name) is not None
    return LoadedModel(
        model, base.tokenizer, str(name), None if local else folder.name, device=base.device, dtype=base.dtype
    )


def _adapter(name: str, revision: str | None) -> Path | None:
    """Return the folder of an adapter without base weights beside it; None for anything else."""
    if (folder := checkpoint_path(name)) is not None:
        return folder if (folder / CONFIG).is_file() and not (folder / "config.json").exists() else None
    if name == EMBEDDED:
        return None
    try:
        found = fetch_file(name, ("config.json", "open_clip_config.json", CONFIG), revision=revision)
        return fetch_file(name, (WEIGHTS,), revision=found.parent.name).parent if found.name == CONFIG else None
    except HubError:
        return None  # load_model says what is wrong


def _merged(model: Any, folder: Path, name: str) -> Any:
    try:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    except ImportError:
        raise MissingExtra("peft", "peft") from None
    shown = sanitize(name, 300)
    settings = _settings(folder, shown)
    weights = _weights(folder / WEIGHTS, shown)
    try:
        adapted = get_peft_model(copy.deepcopy(model).float(), LoraConfig(**settings))
        loaded: Any = set_peft_model_state_dict(adapted, weights)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"the adapter {shown} does not fit the base ({one_line(error)}): name the base that it was trained on"
        ) from None
    if loaded.unexpected_keys:
        raise InputError(
            f"the adapter {shown} has {sanitize(loaded.unexpected_keys[0], 200)}, which the base has no place for: "
            "name the base that it was trained on, loaded by the same class"
        )
    missing = [key for key in loaded.missing_keys if "lora_" in key or "modules_to_save" in key]
    if missing:
        raise InputError(f"the adapter {shown} lacks {sanitize(missing[0], 200)}: fetch it again")
    return adapted.merge_and_unload().eval()


def _settings(folder: Path, shown: str) -> dict[str, Any]:
    """Return the arguments of peft's configuration that decide what an adapter adds."""
    raw = read_json_object(folder / CONFIG, "fetch the adapter again")
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModel(
            f"{shown} is an adapter of the kind {sanitize(repr(kind), 60)}; only LORA is merged here: {_MERGE}"
        )
    variant = next((name for name in _VARIANTS if raw.get(name)), None)
    if variant is not None:
        raise UnsupportedModel(f"{shown} is a LoRA with {variant}, which is not merged here: {_MERGE}")
    start = raw.get("init_lora_weights", True)
    if not any(start is plain or (isinstance(plain, str) and start == plain) for plain in _PLAIN_STARTS):
        raise UnsupportedModel(f"{shown} began as {sanitize(repr(start), 60)}, which changes the base: {_MERGE}")
    return {key: raw[key] for key in _SETTINGS if raw.get(key) is not None}


def _weights(path: Path, shown: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UnsupportedModel(
            f"{shown} has no {WEIGHTS}; sith-hf reads safetensors only, and unpickles nothing: save the adapter with "
            "save_pretrained(safe_serialization=True)"
        )
    try:
        with TensorFile.read(path) as (header, file):
            weights = {key: header.tensor(file, key) for key in header.entries}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{sanitize(str(path), 300)} is damaged ({one_line(error)}): fetch it again") from None
    bad = next((key for key, tensor in weights.items() if not torch.isfinite(tensor.float()).all()), None)
    if bad is not None:
        raise InputError(f"the adapter {shown} has NaN or infinity in {sanitize(bad, 200)}: train or fetch it again")
    return weights
