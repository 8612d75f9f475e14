"""A recipe to tune on a tiny random model: plain pictures, whose red is the only thing that differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.support.evaluating import CLASSES, dataset
from tests.support.tiny import image_processor, save_clip

TUNE: dict[str, Any] = {
    "target": {"task": "things", "metric": "worst group"},
    "collateral": {"task": "others", "metric": "drift, mean", "limit": 1.0},
    "validation": {"things": {"dataset": "validation"}, "others": {"dataset": "validation"}},
    "layers": [[-1], [-2, -1]],
    "max_vectors": 3,
    "trials": 10,
    "batch_size": 5,
}


def pictures(folder: Path, count: int, seed: int) -> Path:
    """A folder of ``save_to_disk`` with pictures, labels and groups at random; even and odd seeds share no picture."""
    rng = np.random.default_rng(seed)
    reds = (2 * rng.choice(128, size=count, replace=False) + seed % 2).tolist()
    label = rng.choice(CLASSES, size=count).tolist()
    dataset(reds, label=label, group=rng.choice(["day", "night"], size=count).tolist()).save_to_disk(folder)
    return folder


def tunable(folder: Path, **changes: Any) -> Path:
    """A folder with a model, ``validation`` and ``test`` pictures; return its recipe with other values for ``tune``."""
    save_clip(folder / "clip")
    image_processor().save_pretrained(folder / "clip")
    pictures(folder / "validation", 24, 1)
    pictures(folder / "test", 16, 2)
    columns = {"label": "label", "group": "group"}
    recipe = {
        "title": "A tiny edit",
        "base": {"model": "clip"},
        "dictionary": {"texts": ["boat", "car", "camel", "sea", "road", "red", "night"]},
        "edits": [{"rule": "share", "concepts": ["sea", "road"], "threshold": 0.5, "layers": [-2, -1]}],
        "large_edit": True,
        "evaluate": {
            "tasks": [
                {"kind": "zero-shot", "name": "things", "classes": list(CLASSES),
                 "data": {"dataset": "test", "columns": columns}},
                {"kind": "collateral", "name": "others", "data": {"dataset": "test"}},
            ],
            "resamples": 100,
            "baselines": {"random": 1},
        },
        "tune": {**TUNE, **changes},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))
    return path
