"""Configuration files without the local paths that transformers before 5 saved in them."""

from __future__ import annotations

import json
from pathlib import Path

CONFIGS = ("config.json", "tokenizer_config.json")
PATH_KEYS = ("_name_or_path", "name_or_path")


def published(path: Path) -> bytes | None:
    """Return a configuration file's content without local paths; None if it has none or is no JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        local = [key for key in PATH_KEYS if str(data.get(key, "")).startswith(("/", "~", ".", "\\"))]
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    kept = {key: value for key, value in data.items() if key not in local}
    return (json.dumps(kept, indent=2) + "\n").encode("utf-8") if local else None
