"""The facts that a card states, as plain data and sentences; the templates escape them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sith_hf.core.escaping import shown_name
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.core.formatting import count, counted, listed
from sith_hf.core.strict_yaml import read_yaml
from sith_hf.decomposition import Decomposition, Drivers, Explanation
from sith_hf.edits import AnySpec, EditSpec
from sith_hf.errors import InputError
from sith_hf.hub import is_repo_id
from sith_hf.pursuit import METHODS
from sith_hf.towers import (
    UNUSABLE,
    Checkpoint,
    config_json,
    config_settings,
    family_of_config,
    family_with,
    layer_title,
    number_of_layers,
)
from sith_hf.world import EMBEDDED, embedded_checkpoint

# Stands for the place of a base that has no Hub id in the code that cards show.
BASE_FOLDER = "path/to/the/base"

# A table with more rows than the first number is folded; rows after the second are left out.
FOLD, CUT = 10, 1000


def hub_base(base: BaseRef) -> str | None:
    """Return the Hub id of a base; None for a folder or a model in memory, which have no commit."""
    pinned = base.revision is not None and re.fullmatch(r"[0-9a-f]{40}", base.revision)
    return base.name if pinned and "/" in base.name and is_repo_name(base.name) else None


def is_repo_name(repo_id: str) -> bool:
    """Return whether ``repo_id`` can be the id of a repository on the Hub."""
    return is_repo_id(repo_id) and repo_id.isascii()


def encoder_name(name: str) -> str:
    """Return the Hub id of a text tower, or the last part of its path."""
    return name if is_repo_name(name) else shown_name(name)


def base_name(base: BaseRef) -> str:
    """Return the Hub id of a base, or the last part of its path."""
    return hub_base(base) or shown_name(base.name)


def base_in_code(base: BaseRef) -> str:
    """Return the name of a base in code and commands: its Hub id, ``embedded``, or what stands for its folder."""
    return hub_base(base) or (EMBEDDED if _is_embedded(base) else BASE_FOLDER)


def _is_embedded(base: BaseRef) -> bool:
    """Return whether a base is the checkpoint that comes with sith-hf, wherever it was read from."""
    checkpoint = Checkpoint.read(embedded_checkpoint())
    key = min(base.sha256, default="")
    return key in checkpoint.where and tensor_sha256(checkpoint.tensor(key)) == base.sha256[key]


def config_of(folder: Path, spec: AnySpec) -> tuple[str, dict[str, int]]:
    """Read the architecture, and the number of layers of each edited tower, from the ``config.json`` of a checkpoint.

    Raises:
        UnsupportedModel: another family or architecture.
        InputError: ``config.json`` is missing or damaged, or of a model without the tower.
    """
    try:
        raw = config_json(folder, "save the checkpoint again")
        architecture = family_of_config(raw)[1]
        layers = {part.tower: number_of_layers(config_settings(raw, part.tower)) for part in spec.parts}
    except InputError:
        raise
    except UNUSABLE as error:
        raise InputError(f"{folder}/config.json is of no supported model ({type(error).__name__}); fix it") from None
    for depth in layers.values():
        if not isinstance(depth, int) or isinstance(depth, bool) or not 0 < depth <= 1000:
            raise InputError(f"{folder}/config.json: num_hidden_layers is {depth!r}; expected a number from 1 to 1000")
    return architecture, layers


def pipeline_of(architecture: str) -> str:
    """Return the pipeline of transformers for a class of models."""
    family = family_with(architecture)
    if "ForConditionalGeneration" in architecture:
        return "image-text-to-text"
    if "ForObjectDetection" in architecture:
        return "zero-shot-object-detection"
    if "ForImageClassification" in architecture:
        return "image-classification"
    if "Segmentation" in architecture:
        return "image-segmentation"
    if "vision" not in family.towers(architecture):
        return "feature-extraction"
    return "zero-shot-image-classification" if family.has_text(architecture) else "image-feature-extraction"


def family_tag(family: str) -> str:
    """Return the name of a family as a tag; families with CLIP's name in theirs, and unknown ones, are CLIP."""
    return family if re.fullmatch(r"[a-z0-9_]+", family) and "clip" not in family else "clip"


def is_wordless(spec: AnySpec) -> bool:
    """Return whether the spec records that no words explain its vectors."""
    return all(part.provenance is not None and not any(part.provenance.explanations) for part in spec.parts)


def towers_of(spec: AnySpec) -> str:
    """Name the edited towers."""
    return listed([f"the {part.tower} tower" for part in spec.parts])


def summary(spec: AnySpec) -> str:
    """Summarise the changes in one sentence, without any text from outside."""
    return "; ".join(map(_summary, spec.parts))


def _summary(spec: EditSpec) -> str:
    heads = len({key[:2] for key in spec.keys})
    named = [str(layer_title(n, spec.base.settings)) for n in spec.layers]
    where = f"{'layer' if len(named) == 1 else 'layers'} {listed(named)} of the {spec.tower} tower"
    changes = Counter(_verb(gain) for gain in spec.gain.tolist())
    how = listed([f"{count(number)} {verb}" for verb, number in changes.items()])
    change = "has a new gain" if len(spec) == 1 else "have new gains"
    return f"{counted(len(spec), 'singular vector')} in {counted(heads, 'attention head')} of {where} {change}: {how}"


def _verb(gain: float) -> str:
    if gain == 0:
        return "removed"
    if gain < 0:
        return "inverted"
    return "turned down" if gain < 1 else "amplified"


def topics(spec: AnySpec, limit: int = 5) -> list[str]:
    """Return the main concepts of the edited vectors, by weight times change of gain: texts from outside.

    Silent poles do not count. The list is empty if the spec does not record explanations.
    """
    total: dict[str, float] = {}
    for part in spec.parts:
        explanations = () if part.provenance is None else part.provenance.explanations
        for gain, poles in zip(part.gain.tolist(), explanations, strict=part.provenance is not None):
            for text, weight in (pair for pole in poles if not pole.silent for pair in pole.concepts):
                total[text] = total.get(text, 0.0) + weight * abs(gain - 1)
    return sorted(total, key=lambda text: (-total[text], text))[:limit]


def silent_poles(spec: AnySpec) -> tuple[int, int] | None:
    """Return how many poles of the edited vectors are silent, and how many there are; None if that is not known."""
    poles = [p for part in spec.parts if part.provenance for term in part.provenance.explanations for p in term]
    if not poles or any(pole.beyond_chance is None for pole in poles):
        return None
    return sum(pole.silent for pole in poles), len(poles)


def vector_rows(spec: AnySpec) -> list[dict[str, Any]]:
    """Return table rows of the edited vectors: ``tower, layer, head, vector, gain, label, reason, plus, minus``.

    ``plus`` and ``minus`` are the explanations of the poles, None if not recorded.
    """
    return [row for part in spec.parts for row in _vector_rows(part)]


def _vector_rows(spec: EditSpec) -> list[dict[str, Any]]:
    rows = [{**row, "reason": "", "plus": None, "minus": None} for row in spec.rows()]
    for row in rows:
        row["layer"] = layer_title(row["layer"], spec.base.settings)
    if spec.provenance is not None:
        for row, explanations, reason in zip(rows, spec.provenance.explanations, spec.provenance.reasons, strict=True):
            poles = {explanation.pole: explanation for explanation in explanations}
            row.update(reason=reason, plus=poles.get("+"), minus=poles.get("-"))
    return rows


def explained(spec: AnySpec) -> bool:
    """Return whether the edit records the words by which its vectors were chosen, for every tower."""
    return all(part.provenance is not None for part in spec.parts) and not is_wordless(spec)


def best_explained(decomposition: Decomposition, most: int = 5) -> list[Explanation]:
    """Return the poles of the largest fidelity; of those beyond chance where that is known."""
    fidelity, known = decomposition.fidelity, decomposition.beyond_chance()
    shown = fidelity if known is None else torch.where(known, fidelity, -torch.inf)
    order = shown.flatten().argsort(descending=True, stable=True)[:most]
    places = [torch.unravel_index(i, shown.shape) for i in order if shown.flatten()[i] > -torch.inf]
    return [
        decomposition.explain(decomposition.layers[layer], int(head), int(vector), decomposition.poles[pole])
        for layer, head, vector, pole in places
    ]


def drivers_title(drivers: Drivers) -> str:
    """Return the images by which drivers were measured, in words: a text from outside."""
    number = drivers.images.get("count")
    if not isinstance(number, int):
        return drivers.title
    return f"{counted(number, 'image')} of {drivers.images.get('title', 'an unknown source')}"


_SETTINGS = {
    "tower": "tower",
    "family": "family of the model",
    "readout": "way to the joint space",
    "side": "explained directions",
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
    "reference": "imported from published files",
    "encoder_settings": "settings of the text tower, and sha256 of its tokenizer",
}


def edit_setting_rows(spec: AnySpec) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return for each edited tower :func:`setting_rows` of its decomposition, as far as the spec records them."""
    recorded = [(p.tower, p.settings if p.provenance is None else p.provenance.decomposition) for p in spec.parts]
    return [(tower, setting_rows(settings)) for tower, settings in recorded]


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


def card_texts(recipe: str | None) -> dict[str, str]:
    """Return ``intended_use`` and ``limitations`` of a recipe's YAML, if present: texts from outside."""
    try:
        data = read_yaml(recipe or "", "the recipe")
    except InputError:
        return {}
    section = data.get("card") if isinstance(data, dict) else None
    found = section if isinstance(section, dict) else {}
    return {key: found[key] for key in ("intended_use", "limitations") if isinstance(found.get(key), str)}


def inherited(base_card: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the license and the languages in the metadata of the base's card.

    Values of a form that the Hub does not know are dropped.
    """
    card = base_card if isinstance(base_card, Mapping) else {}
    other = card.get("license") == "other"
    return {
        name: card[name]
        for name, pattern in _INHERITED.items()
        if _matches(card.get(name), pattern) and (other or not name.startswith("license_"))
    }


_INHERITED = {
    "license": r"[a-z0-9][a-z0-9.+\-]{0,63}",
    "license_name": r"[A-Za-z0-9][A-Za-z0-9.\-_ ]{0,99}",
    "license_link": r"LICENSE(\.md|\.txt)?|https://[A-Za-z0-9./\-_%#?=&~+]{1,300}",
    "language": r"[a-z]{2,3}",
}


def _matches(value: object, pattern: str) -> bool:
    """Return whether a text, or every text of a list, matches the pattern."""
    items = value if isinstance(value, list) and value else [value]
    return all(isinstance(item, str) and re.fullmatch(pattern, item) for item in items)
