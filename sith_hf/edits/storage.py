"""The file of an edit spec: its layout, and reading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.fingerprint import BaseRef
from sith_hf.edits.place import Place
from sith_hf.edits.provenance import Provenance
from sith_hf.errors import ArtifactError
from sith_hf.files import Layout, check_data, json_texts, read_versions, require
from sith_hf.towers import TOWERS

_TENSORS = {
    "layer": (torch.int64, "N"),
    "head": (torch.int64, "N"),
    "vector": (torch.int64, "N"),
    "gain": (torch.float64, "N"),
    "write": (torch.float32, "N D"),
    "row": (torch.float32, "N d"),
    "constant": (torch.float32, "N"),
    "column": (torch.float32, "N D"),
}
_DATA: dict[str, type | tuple[type, ...]] = {
    "base": dict,
    "settings": dict,
    "labels": list,
    "origin": (dict, type(None)),
    "reverts": bool,
    "edited_sha256": dict,
}

EDIT_SPEC_LAYOUT = Layout(
    format="sith-hf/edit-spec",
    version=1,
    filename="edit_spec.safetensors",
    tensors=_TENSORS,
    optional=("column",),
    data={**_DATA, "libraries": dict},
)
# The edits of both towers. The towers have different widths, so each tensor has its tower in its name and axes.
TOWER_SPECS_LAYOUT = Layout(
    format=EDIT_SPEC_LAYOUT.format,
    version=2,
    filename=EDIT_SPEC_LAYOUT.filename,
    tensors={
        f"{tower}.{name}": (dtype, " ".join(f"{axis}_{tower}" for axis in axes.split()))
        for tower in TOWERS
        for name, (dtype, axes) in _TENSORS.items()
    },
    optional=tuple(f"{tower}.column" for tower in TOWERS),
    data={"towers": dict, "libraries": dict},
)


def read_spec_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Layout]:
    """Return the tensors and the JSON object in the file of an edit spec, and its layout. Raises ArtifactError."""
    return read_versions(path, EDIT_SPEC_LAYOUT, TOWER_SPECS_LAYOUT)


def read_parts(path: Path) -> list[dict[str, Any]]:
    """Return the fields of the ``EditSpec`` of each tower in a file. Raises ArtifactError."""
    tensors, data, layout = read_spec_file(path)
    if layout is EDIT_SPEC_LAYOUT:
        return [_fields(tensors, data, path)]
    found = []
    for tower in TOWERS:
        part = data["towers"].get(tower)
        require(isinstance(part, dict), path, f"its metadata has no edit of the {tower} tower")
        check_data(path, _DATA, part)
        prefix = f"{tower}."
        fields = _fields({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, part, path)
        require(fields["place"].tower == tower, path, f"the edit of the {tower} tower is of another tower")
        found.append(fields)
    return found


def _fields(tensors: dict[str, Tensor], data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of an ``EditSpec``."""
    labels = json_texts(data["labels"], f"{path}: labels")
    require(len(labels) == len(tensors["gain"]), path, "terms and labels differ in number")
    for name in ("layer", "head", "vector"):
        require(bool((tensors[name] >= 0).all()), path, f"a {name} is negative")
    size, head_size = tensors["write"].shape[1], tensors["row"].shape[1]
    require(head_size > 0 and size % head_size == 0, path, "the head size does not divide the width")
    require(bool((tensors["head"] < size // head_size).all()), path, "a head is out of range")
    unit = bool(((tensors["write"].norm(dim=-1) - 1).abs() < 1e-3).all())
    require(unit, path, "a write direction is not of unit length")
    try:
        base = BaseRef.from_json(data["base"])
        provenance = None if data["origin"] is None else Provenance.from_json(data["origin"])
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    place = Place.from_json(data.get("place"), path)
    touched = {name for n in tensors["layer"].tolist() for name in place.names(n) if name is not None}
    require(touched <= set(base.sha256), path, "a tensor that the edit changes has no fingerprint")
    after = data["edited_sha256"].values()
    require(all(isinstance(v, str) for v in after), path, "its metadata has no valid 'edited_sha256'")
    fitting = provenance is None or len(provenance.reasons) == len(labels)
    require(fitting, path, "its provenance and its terms differ in number")
    others = {"settings": data["settings"], "reverts": data["reverts"], "edited_sha256": data["edited_sha256"] or None}
    return {**tensors, "labels": labels, "base": base, "place": place, "provenance": provenance, **others}
