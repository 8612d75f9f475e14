"""Configurations without the place on disk that releases of transformers before 5 noted in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONFIGS = ("config.json", "tokenizer_config.json")
PLACES = ("_name_or_path", "name_or_path")


def without_places(path: Path) -> dict[str, Any] | None:
    """A configuration without the local folder that is noted in it; None where none is, or it is no JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        places = [key for key in PLACES if str(data.get(key, "")).startswith(("/", "~", ".", "\\"))]
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return {key: value for key, value in data.items() if key not in places} if places else None


def published(path: Path) -> bytes | None:
    """What of such a file may be published; None where that is the file itself."""
    data = without_places(path)
    return None if data is None else (json.dumps(data, indent=2) + "\n").encode("utf-8")
