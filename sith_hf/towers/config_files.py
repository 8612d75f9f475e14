"""Configuration files without the local paths that transformers before 5 saved in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIGS = ("config.json", "tokenizer_config.json")
PLACES = ("_name_or_path", "name_or_path")


def without_places(path: Path) -> dict[str, Any] | None:
    """Return a configuration without its local paths; None if it has none or is no JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        places = [key for key in PLACES if str(data.get(key, "")).startswith(("/", "~", ".", "\\"))]
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return {key: value for key, value in data.items() if key not in places} if places else None


def published(path: Path) -> bytes | None:
    """Return the publishable content of a configuration file; None if the file itself is."""
    data = without_places(path)
    return None if data is None else (json.dumps(data, indent=2) + "\n").encode("utf-8")
