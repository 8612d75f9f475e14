"""The facts that a card states, as plain data and sentences; the templates escape them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from sith_hf.cards.markdown import impersonal
from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.settings import Settings
from sith_hf.decomposition import Explanation
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError
from sith_hf.hub import is_repo_id
from sith_hf.pursuit import METHODS
from sith_hf.towers import check_family

# Rows from which a table is folded, and at which it is cut.
FOLD, CUT = 20, 1000


def hub_base(base: BaseRef) -> str | None:
    """Return the Hub id of a base; None for a folder or a model in memory.

    Only a repository has a commit, so that a name without one is no Hub id, even if it looks like one.
    """
    pinned = base.revision is not None and re.fullmatch(r"[0-9a-f]{40}", base.revision)
    return base.name if pinned and "/" in base.name and repo_name(base.name) else None


def repo_name(repo_id: str) -> str | None:
    """Return ``repo_id`` if it can be the id of a repository on the Hub, else None."""
    return repo_id if is_repo_id(repo_id) and repo_id.isascii() else None


def shown_name(name: str) -> str:
    """Return the last part of a local path, so that a card reveals no folders."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return "a model in memory" if last in ("", "in memory") else last


def encoder_name(name: str) -> str:
    """Return the name of a text tower in cards: a Hub id, or the last part of a path."""
    return name if repo_name(name) else shown_name(name)


def base_name(base: BaseRef) -> str:
    """Return the name of a base in cards: its Hub id, or the last part of its path."""
    return hub_base(base) or shown_name(base.name)


def config_of(folder: Path) -> tuple[str, int]:
    """Read the architecture of a checkpoint and the number of layers of its vision tower from ``config.json``.

    Raises:
        UnsupportedModel: another family or architecture.
        InputError: ``config.json`` is missing or damaged.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architecture = check_family(config.get("model_type"), config.get("architectures"))
        vision = config.get("vision_config", {}) if architecture == "CLIPModel" else config
        layers = vision.get("num_hidden_layers", 12)  # CLIPVisionConfig's own default
    except InputError:
        raise
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{folder}/config.json does not describe a CLIP model ({type(error).__name__})") from None
    if not isinstance(layers, int) or isinstance(layers, bool) or not 0 < layers <= 1000:
        raise InputError(f"{folder}/config.json: num_hidden_layers is {layers!r}; expected a number from 1 to 1000")
    return architecture, layers


def number_of_heads(spec: EditSpec) -> int:
    """Return the number of heads in a layer of the spec's tower."""
    return int(spec.write.shape[1]) // int(spec.row.shape[1])


def summary(spec: EditSpec) -> str:
    """Return what changed, in one sentence, without any text from outside."""
    heads = len({key[:2] for key in spec.keys})
    layers = spec.layers
    vectors = "1 singular vector" if len(spec) == 1 else f"{len(spec)} singular vectors"
    head = "head" if heads == 1 else "heads"
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {_listed([str(n) for n in layers])}"
    changes = Counter(_verb(gain) for gain in spec.gain.tolist())
    how = _listed([f"{count} {verb}" for verb, count in changes.items()])
    change = "has a new gain" if len(spec) == 1 else "have new gains"
    return f"{vectors} in {heads} attention {head} of {where} {change}: {how}"


def _verb(gain: float) -> str:
    if gain == 0:
        return "removed"
    if gain < 0:
        return "inverted"
    return "turned down" if gain < 1 else "amplified"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def topics(spec: EditSpec, limit: int = 5) -> list[str]:
    """Return the main concepts of the edited vectors, by weight times change of gain; texts from outside.

    Empty if the spec does not record explanations.
    """
    total: dict[str, float] = {}
    if spec.provenance is not None:
        for gain, poles in zip(spec.gain.tolist(), spec.provenance.explanations, strict=True):
            for text, weight in (pair for pole in poles for pair in pole.concepts):
                total[text] = total.get(text, 0.0) + weight * abs(gain - 1)
    return sorted(total, key=lambda text: (-total[text], text))[:limit]


def vector_rows(spec: EditSpec) -> list[dict[str, Any]]:
    """Return table rows of the edited vectors: ``layer, head, vector, gain, label, reason, plus, minus``.

    ``plus`` and ``minus`` are the explanations of the poles, None if not recorded.
    """
    rows = []
    for i, row in enumerate(spec.rows()):
        poles: dict[str, Explanation] = {}
        if spec.provenance is not None:
            poles = {pole.pole: pole for pole in spec.provenance.explanations[i]}
        reason = "" if spec.provenance is None else spec.provenance.reasons[i]
        rows.append({**row, "reason": reason, "plus": poles.get("+"), "minus": poles.get("-")})
    return rows


_SETTINGS = {
    "method": "method",
    "sparsity": "maximum number of concepts per pole",
    "coherence_weight": "coherence weight (lambda)",
    "fold": "layer norm folded into the weights",
    "centre": "all-ones direction removed",
    "image_mean": "image mean used",
    "dictionary_size": "concepts in the dictionary",
    "dictionary_sha256": "sha256 of the dictionary",
    "template": "prompt of the dictionary",
    "encoder": "text tower",
    "encoder_sha256": "sha256 of the text tower",
}


def edit_setting_rows(spec: EditSpec) -> list[tuple[str, str]]:
    """Return :func:`setting_rows` of the decomposition of an edit, as far as the spec records them."""
    return setting_rows(spec.settings if spec.provenance is None else spec.provenance.decomposition)


def setting_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the settings of a decomposition as (name, value), the known ones first; texts from outside."""
    rows = []
    for key in [*(k for k in _SETTINGS if k in settings), *sorted(k for k in settings if k not in _SETTINGS)]:
        value = settings[key]
        if key == "encoder" and isinstance(value, str):
            value = encoder_name(value)
        elif key == "method" and isinstance(value, str) and value in METHODS:
            value = f"{METHODS[value].title} ({METHODS[value].source})"
        elif isinstance(value, bool) or value is None:
            value = {True: "yes", False: "no", None: "none"}[value]
        elif not isinstance(value, str):
            value = json.dumps(value, sort_keys=True, default=str)
        rows.append((_SETTINGS.get(key, key), value))
    return rows


class MeasuredResult(Settings):
    """One measured result."""

    dataset: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    base: float
    edited: float
    split: str | None = None
    samples: int | None = Field(default=None, ge=0)
    interval: tuple[float, float] | None = None
    """The 95 % interval of ``edited - base``, lower end first."""


class Results(Settings):
    """What an evaluation measured: on the task of the edit, and beside it."""

    results: tuple[MeasuredResult, ...] | None = None
    collateral: tuple[MeasuredResult, ...] | None = None


def measured_rows(evaluation: Mapping[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """Return the table rows of ``results`` and ``collateral``; their texts are sanitized.

    Args:
        evaluation: plain data of the form of :class:`Results`; None if nothing was measured.

    Raises:
        InputError: the evaluation has another form.
    """
    found = Results() if evaluation is None else Results.from_data(evaluation, "the evaluation for the card")
    parts = {"results": found.results or (), "collateral": found.collateral or ()}
    return {name: [_row(item) for item in items] for name, items in parts.items()}


def _row(item: MeasuredResult) -> dict[str, Any]:
    texts = {name: sanitize(impersonal(getattr(item, name) or "")) for name in ("dataset", "metric", "split")}
    return {**item.model_dump(), **texts}


def card_texts(recipe: str | None) -> dict[str, str]:
    """Return ``intended_use`` and ``limitations`` of a recipe's YAML, where present; texts from outside."""
    try:
        data = yaml.safe_load(recipe or "")
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    section = data.get("card") if isinstance(data, dict) else None
    found = section if isinstance(section, dict) else {}
    return {key: found[key] for key in ("intended_use", "limitations") if isinstance(found.get(key), str)}


def inherited(base_card: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the license and the languages in the metadata of the base's card.

    A value of a form that the Hub does not know is dropped, so that nothing else gets into the card.
    """
    card = base_card if isinstance(base_card, Mapping) else {}
    found: dict[str, Any] = {}
    license = card.get("license")
    if _texts(license, r"[a-z0-9][a-z0-9.+\-]{0,63}"):
        found["license"] = license
        if license == "other":
            if _texts(card.get("license_name"), r"[A-Za-z0-9][A-Za-z0-9.\-_ ]{0,99}"):
                found["license_name"] = card["license_name"]
            if _texts(card.get("license_link"), r"LICENSE(\.md|\.txt)?|https://[A-Za-z0-9./\-_%#?=&~+]{1,300}"):
                found["license_link"] = card["license_link"]
    if _texts(card.get("language"), r"[a-z]{2,3}"):
        found["language"] = card["language"]
    return found


def _texts(value: object, pattern: str) -> bool:
    items = value if isinstance(value, list) and value else [value]
    return all(isinstance(item, str) and re.fullmatch(pattern, item) for item in items)
