"""The file of an edit spec: its layout, and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sith_hf.core.fingerprint import BaseRef
from sith_hf.edits.place import Place
from sith_hf.edits.provenance import Provenance
from sith_hf.errors import ArtifactError
from sith_hf.files import Layout, json_texts, read_artifact, require

EDIT_SPEC_LAYOUT = Layout(
    format="sith-hf/edit-spec",
    version=1,
    filename="edit_spec.safetensors",
    tensors={
        "layer": (torch.int64, "N"),
        "head": (torch.int64, "N"),
        "vector": (torch.int64, "N"),
        "gain": (torch.float64, "N"),
        "write": (torch.float32, "N D"),
        "row": (torch.float32, "N d"),
        "constant": (torch.float32, "N"),
        "column": (torch.float32, "N D"),
    },
    optional=("column",),
    data={
        "base": dict,
        "settings": dict,
        "labels": list,
        "origin": (dict, type(None)),
        "reverts": bool,
        "edited_sha256": dict,
        "libraries": dict,
    },
)


def read_fields(path: Path) -> dict[str, Any]:
    """Return the fields of the ``EditSpec`` in a file. Raises ArtifactError."""
    tensors, data = read_artifact(path, EDIT_SPEC_LAYOUT)
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
