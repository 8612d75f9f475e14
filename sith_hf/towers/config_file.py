"""``config.json`` of a checkpoint folder as a JSON object, and a copy without local paths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sith_hf.core.escaping import one_line
from sith_hf.core.reading import json_fields, read_json_object
from sith_hf.errors import InputError
from sith_hf.towers.folder_format import OPEN_CLIP, TRANSFORMERS, folder_format
from sith_hf.towers.model_settings import UNUSABLE
from sith_hf.towers.open_clip_config import open_clip_config

CONFIG = TRANSFORMERS.config
CONFIGS = (CONFIG, "tokenizer_config.json")

ADVICE = "download the checkpoint again, or save it with save_pretrained"

_PATH_KEYS = ("_name_or_path", "name_or_path")
_LOCAL = re.compile(r"[/~.\\]|[A-Za-z]:[/\\]")


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` as transformers reads it, or what it would be for a folder of open_clip.

    Raises:
        UnsupportedModel: a folder of open_clip with another kind of model (:mod:`sith_hf.towers.open_clip_config`).
        InputError: it is missing or no JSON object. The message names the checkpoints below the folder, if any.
    """
    if folder_format(folder) is OPEN_CLIP:
        return open_clip_config(folder)
    if not (folder / CONFIG).is_file():
        advice = checkpoints_below(folder) or "check the path"
        raise InputError(f"{folder}: no checkpoint there (it has no {CONFIG}); {advice}")
    read_json_object(folder / CONFIG, ADVICE)
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(folder, local_files_only=True)
    except UNUSABLE as error:
        raise InputError(f"{folder / CONFIG} cannot be read ({one_line(error)}): {ADVICE}") from None
    return dict(config)


def config_json(folder: Path, advice: str) -> dict[str, Any]:
    """Return the JSON that stands in ``config.json``, or what it would be for a folder of open_clip.

    Raises:
        UnsupportedModel: a folder of open_clip with another kind of model.
        InputError: it is missing or damaged; the message ends with ``advice``.
    """
    if folder_format(folder) is OPEN_CLIP:
        return open_clip_config(folder)
    return read_json_object(folder / CONFIG, advice)


def checkpoints_below(folder: Path) -> str | None:
    """Return advice for a folder above checkpoints: of sentence-transformers, Trainer or the Hub's cache; else None."""
    try:
        found = sorted({path.parent for pattern in ("*", "snapshots/*") for path in folder.glob(f"{pattern}/{CONFIG}")})
    except OSError:
        return None
    return f"name a folder below it: {', '.join(map(str, found[:3]))}" if found else None


def published(path: Path) -> bytes | None:
    """Return a configuration file without the local paths that transformers before 5 saved; None if it has none."""
    data = json_fields(path)
    # The configurations of the two towers are objects in that of the model.
    kept = _public({key: _public(value) if isinstance(value, dict) else value for key, value in data.items()})
    return (json.dumps(kept, indent=2) + "\n").encode("utf-8") if kept != data else None


def _public(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in _PATH_KEYS or not _LOCAL.match(str(value))}
