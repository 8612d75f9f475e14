"""Safetensors files and folders read by our own few lines, so that a test need not trust the code that it tests."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.edits.spec import EditSpec

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

# (layer, head, vector, gain) of the usual edit: two heads in one layer, layer 1 left alone.
TERMS = ((0, 1, 2, 0.0), (2, 0, 1, -1.0), (2, 3, 0, 3.0), (2, 3, 5, 0.5))


class Raw(NamedTuple):
    """One tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


def read_raw(path: Path) -> tuple[dict[str, Raw], dict[str, str] | None]:
    """The tensors and the metadata of one safetensors file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", None)
    data = content[8 + length :]
    return {k: Raw(v["dtype"], tuple(v["shape"]), data[slice(*v["data_offsets"])]) for k, v in header.items()}, metadata


def write_raw(path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None = None, pad: int = 8) -> Path:
    """The inverse of :func:`read_raw`, tensors in the order given."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for key, raw in tensors.items():
        header[key] = {"dtype": raw.dtype, "shape": list(raw.shape), "data_offsets": [at, at + len(raw.content)]}
        at += len(raw.content)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % pad)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(raw.content for raw in tensors.values()))
    return path


def weight_files(folder: Path) -> list[Path]:
    """The files that ``from_pretrained`` reads weights from."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def raw_tensors(folder: Path) -> dict[str, Raw]:
    """Every tensor of a checkpoint under the name that Hub checkpoints give it."""
    found = {key: raw for path in weight_files(folder) for key, raw in read_raw(path)[0].items()}
    bare = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
    return {f"vision_model.{key}" if key.startswith(bare) else key: raw for key, raw in found.items()}


def torch_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The same by the safetensors library, as torch tensors."""
    found = {key: tensor for path in weight_files(folder) for key, tensor in load_file(path).items()}
    bare = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
    return {f"vision_model.{key}" if key.startswith(bare) else key: tensor for key, tensor in found.items()}


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path, *, without: Iterable[str] = ()) -> dict[str, str]:
    """Relative name to sha256 of every file below ``folder``, links followed."""
    skip = tuple(without)
    found = {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: value for name, value in found.items() if not name.startswith(skip)} if skip else found


def out_proj(layer: int) -> tuple[str, str]:
    """The names of the two tensors that an edit of a layer changes."""
    stem = f"vision_model.encoder.layers.{layer}.self_attn.out_proj"
    return f"{stem}.weight", f"{stem}.bias"


def random_spec(
    folder: Path,
    terms: Iterable[tuple[int, int, int, float]] = TERMS,
    *,
    head_size: int = 8,
    seed: int = 1,
    labels: Iterable[str] | None = None,
    name: str | None = None,
) -> EditSpec:
    """An edit of a checkpoint by random directions: writing it needs no decomposition."""
    listed = sorted(terms)
    tensors = torch_tensors(folder)
    size = tensors[out_proj(0)[0]].shape[0]
    generator = torch.Generator().manual_seed(seed)
    keys = [key for layer in {term[0] for term in listed} for key in out_proj(layer)]
    columns = torch.tensor([term[:3] for term in listed], dtype=torch.int64).reshape(-1, 3).T.contiguous()
    write = torch.randn(len(listed), size, generator=generator)
    return EditSpec.from_terms(
        layer=columns[0],
        head=columns[1],
        vector=columns[2],
        gain=torch.tensor([term[3] for term in listed], dtype=torch.float64),
        write=write / write.norm(dim=-1, keepdim=True),
        row=torch.randn(len(listed), head_size, generator=generator),
        constant=torch.randn(len(listed), generator=generator),
        labels=list(labels or (f"+ sea {i} | - road {i}" for i in range(len(listed)))),
        base=BaseRef(name or str(folder), None, {key: tensor_sha256(tensors[key]) for key in keys}),
        settings={"fold": True, "centre": True},
    )


def by_hand(folder: Path, spec: EditSpec) -> dict[str, torch.Tensor]:
    """The edited tensors in float64, term by term as the method defines them, not rounded."""
    tensors = torch_tensors(folder)
    result: dict[str, torch.Tensor] = {}
    size = spec.row.shape[1]
    for i, (layer, head, _) in enumerate(spec.keys):
        weight, bias = out_proj(layer)
        for key in (weight, bias):
            result.setdefault(key, tensors[key].double())
        factor = float(spec.gain[i]) - 1
        write, row = spec.write[i].double(), spec.row[i].double()
        result[weight][:, head * size : (head + 1) * size] += factor * torch.outer(write, row)
        result[bias] -= factor * float(spec.constant[i]) * write
    return result
