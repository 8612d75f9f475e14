"""Load a model and its tokenizer by folder or Hub id; safetensors only."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from sith_hf.core.reading import read_bytes
from sith_hf.errors import HubError, InputError, UnsupportedModel
from sith_hf.hub import fetch_file, fetch_snapshot, is_repo_id
from sith_hf.towers.clip import check_family


@dataclass(frozen=True)
class LoadedModel:
    """A model and its source.

    Attributes:
        model: the ``transformers`` model, in evaluation mode, in the dtype of its checkpoint.
        tokenizer: its tokenizer; None without a text tower.
        name: the Hub id or folder it was loaded from.
        revision: the commit on the Hub; None for a folder.
        folder: the folder of its files; None for a model in memory.
    """

    model: Any = field(repr=False)
    tokenizer: Any | None = field(repr=False)
    name: str
    revision: str | None
    folder: Path | None = None


def load_model(
    name: str, revision: str | None = None, *, want_text: bool = False, token: str | None = None
) -> LoadedModel:
    """Load a ``CLIPModel``, ``CLIPVisionModel`` or ``CLIPVisionModelWithProjection`` by folder or Hub id.

    Args:
        name: a local folder, or a Hub id.
        revision: branch, tag or commit on the Hub.
        want_text: require a text tower (for a companion).
        token: a Hub token; the one of the environment or login when None.

    Raises:
        UnsupportedModel: another family or architecture, or a checkpoint without safetensors.
        InputError: no checkpoint, or one that is damaged or incomplete.
    """
    import transformers
    from transformers import PretrainedConfig

    name = str(name)
    folder = Path(name)
    if not os.path.isdir(name):
        if os.path.exists(name) or not is_repo_id(name):
            raise InputError(
                f"{name}: no CLIP checkpoint there (not a folder, and not a Hub id such as me/clip): check the path"
            )
        # Read the configuration first, so that other models are not downloaded.
        folder = _fetched(name, lambda: fetch_file(name, ["config.json"], revision=revision, token=token)).parent
    try:
        if (folder / "config.json").is_file():
            read_bytes(folder / "config.json")  # raises for a file that is too large for a configuration
        config, _ = PretrainedConfig.get_config_dict(folder)
        if not config:
            raise FileNotFoundError("no config.json")
        architecture = check_family(config.get("model_type"), config.get("architectures"))
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{name}: {error}") from None
    # AttributeError, TypeError: config.json holds a list or a number.
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{name}: no CLIP checkpoint there ({_one_line(error)})") from None
    if want_text and architecture != "CLIPModel":
        raise UnsupportedModel(f"{name} is a {architecture} without a text tower: a text model must be a CLIPModel")
    if not os.path.isdir(name):
        # Load the same commit as the configuration.
        folder = _fetched(name, lambda: fetch_snapshot(name, revision=folder.name, token=token))
    if not any(folder.glob("*.safetensors")):
        raise UnsupportedModel(
            f"{name} has no .safetensors weights, and sith-hf unpickles nothing: convert it with save_pretrained"
        )
    try:
        model, report = getattr(transformers, architecture).from_pretrained(
            folder, dtype="auto", use_safetensors=True, output_loading_info=True
        )
    # RuntimeError, TypeError and ArithmeticError: impossible sizes in config.json.
    except (
        OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError, TypeError, ArithmeticError
    ) as error:  # fmt: skip
        raise InputError(f"{name}: the checkpoint could not be loaded as {architecture} ({_one_line(error)})") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(
            f"{name}: {len(missing)} tensors of a {architecture} are missing, such as {missing[0]}; "
            "transformers would fill them with random numbers. Download the checkpoint again"
        )
    model.config._name_or_path = name  # not the path in the cache
    return LoadedModel(
        model=model.eval(),
        tokenizer=_load_tokenizer(folder) if architecture == "CLIPModel" else None,
        name=name,
        revision=None if os.path.isdir(name) else folder.name,
        folder=folder,
    )


def _fetched(name: str, fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except HubError as error:
        raise InputError(f"{name}: no CLIP checkpoint there (no folder has this name, and {error})") from None


def _load_tokenizer(folder: Path) -> Any | None:
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError):
        return None  # an encoded dictionary needs no tokenizer
    # Without the files, transformers 5 returns a tokenizer that maps every text to unknown tokens.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) else None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
