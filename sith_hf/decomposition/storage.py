"""The file of a decomposition: its layout, and reading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition.drivers import TENSORS as DRIVERS
from sith_hf.decomposition.drivers import Drivers
from sith_hf.decomposition.settings import EFFECTS, SIDES
from sith_hf.decomposition.significance import Significance
from sith_hf.errors import ArtifactError
from sith_hf.files import Layout, read_artifact, require, texts_of
from sith_hf.towers import TOWERS

DECOMPOSITION_LAYOUT = Layout(
    format="sith-hf/decomposition",
    version=1,
    filename="decomposition.safetensors",
    tensors={
        "layers": (torch.int64, "L"),
        "singular_values": (torch.float32, "L H R"),
        "energy": (torch.float32, "L H"),
        "write": (torch.float32, "L H R D"),
        "read": (torch.float32, "L H R D"),
        "concept": (torch.int64, "L H R poles K"),
        "weight": (torch.float32, "L H R poles K"),
        "fidelity": (torch.float32, "L H R poles"),
        "coherence": (torch.float32, "L H R poles"),
        "ceiling": (torch.float32, "L H R"),
        "embeddings": (torch.float32, "U P"),
        "dictionary_mean": (torch.float32, "P"),
        "image_mean": (torch.float32, "P"),
        "text_bytes": (torch.uint8, "bytes"),
        "text_offsets": (torch.int64, "offsets"),
        "p_value": (torch.float64, "L H R poles"),
        "null_fidelity": (torch.float32, "draws"),
        "p_head": (torch.float64, "L H R poles"),
        "head_chance": (torch.float32, "L H"),
        "total_cosine": (torch.float32, "L H R"),
        **DRIVERS,
    },
    optional=("p_value", "null_fidelity"),
    parts=(("p_head", "head_chance"), ("total_cosine",), tuple(DRIVERS)),
    data={"base": dict, "settings": dict, "poles": list, "libraries": dict},
    repo_type="dataset",
)

# The tensors that become fields of the same name.
_OTHERS = {
    *("layers", "text_bytes", "text_offsets", *DECOMPOSITION_LAYOUT.optional),
    *(name for part in DECOMPOSITION_LAYOUT.parts for name in part),
}
FIELDS = [name for name in DECOMPOSITION_LAYOUT.tensors if name not in _OTHERS]


def read_fields(path: Path) -> dict[str, Any]:
    """Return the fields of the ``Decomposition`` in a file. Raises ArtifactError."""
    tensors, data = read_artifact(path, DECOMPOSITION_LAYOUT)
    texts, poles = texts_of(tensors, path), tuple(data["poles"])
    fields: dict[str, Any] = {name: tensors[name] for name in FIELDS}
    layers = tuple(tensors["layers"].tolist())
    _check(path, layers, poles, texts, fields)
    try:
        base = BaseRef.from_json(data["base"])
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    require(data["settings"].get("side", "write") in SIDES, path, "the explained side is neither write nor read")
    require(data["settings"].get("tower", "vision") in TOWERS, path, "the tower is neither vision nor text")
    require(len(base.sha256) >= 4 * len(layers), path, "a tensor that was decomposed has no fingerprint")
    significance = Significance.from_json(data.get("significance"), tensors, path)
    require(bool(poles) or significance is None, path, "it explains nothing, but has p-values")
    drivers = Drivers.from_file(data.get("drivers"), tensors, path)
    require(bool(poles) or drivers is None, path, "it explains nothing, but has drivers")
    cosine = tensors.get("total_cosine")
    require(cosine is None or bool((cosine.abs() <= 1 + 1e-3).all()), path, "a cosine of two effects is beyond 1")
    require(data["settings"].get("effect", "direct") in EFFECTS, path, "the effect is neither direct nor total")
    others = {"layers": layers, "texts": texts, "poles": poles, "base": base, "settings": data["settings"]}
    return {**fields, **others, "significance": significance, "total_cosine": cosine, "drivers": drivers}


def _bare(fields: Mapping[str, Tensor]) -> bool:
    """Return whether nothing but the vectors is there: no concepts, a joint space of size 0, and ceilings of 0."""
    sizes = (fields["concept"].shape[4], *fields["embeddings"].shape, *fields["image_mean"].shape)
    return not any(sizes) and not bool(fields["ceiling"].any())


def _check(
    path: Path, layers: Sequence[int], poles: tuple[Any, ...], texts: tuple[str, ...], fields: Mapping[str, Tensor]
) -> None:
    """Raise ArtifactError unless the fields of an artifact fit together."""
    concept, values = fields["concept"], fields["singular_values"]
    ascending = bool(layers) and min(layers) >= 0 and all(a < b for a, b in pairwise(layers))
    cosines = torch.cat([fields[name].flatten() for name in ("fidelity", "coherence", "ceiling")])
    lengths = torch.cat([fields[name].norm(dim=-1).flatten() for name in ("write", "read", "embeddings")])
    energy, descending = fields["energy"] * (1 + 1e-3), (values[..., 1:] <= values[..., :-1]).all()
    for fits, problem in (
        (poles in [("+", "-"), ("+",), ()], "the poles are neither + nor +-"),
        (concept.shape[3] == len(poles), "the explanations and the poles differ in number"),
        (len(texts) == len(fields["embeddings"]), "texts and embeddings differ in number"),
        (bool(texts) == bool(poles), "it has concepts without poles, or poles without concepts"),
        (bool(poles) or _bare(fields), "it explains nothing, but has parts of explanations"),
        (ascending, "the layers are not ascending numbers"),
        (((concept >= -1) & (concept < len(texts))).all(), "an explanation has a concept beyond the last text"),
        ((fields["weight"] >= 0).all(), "an explanation has a negative weight"),
        ((values >= 0).all() and descending, "the singular values are not descending and non-negative"),
        ((energy >= (values**2).sum(dim=-1)).all(), "a head has less energy than its singular values"),
        ((cosines.abs() <= 1 + 1e-3).all(), "a fidelity, coherence or ceiling is beyond 1"),
        (((lengths - 1).abs() < 1e-3).all(), "a write direction, read direction or embedding is not of unit length"),
    ):
        require(bool(fits), path, problem)
