"""The file of a dictionary: its layout, and reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sith_hf.core.fingerprint import settings_of
from sith_hf.errors import ArtifactError, InputError
from sith_hf.files import Layout, json_texts, read_file_backed, require, texts_of
from sith_hf.pursuit import Atoms, TensorAtoms, blocks
from sith_hf.towers import fill_template

IN_MEMORY = 2**28
"""Files of more bytes (256 MB) are not read into memory."""

ROUNDED = {torch.float32: 1e-3, torch.float16: 1e-3, torch.bfloat16: 5e-3}
"""The largest deviation of an embedding's length from one, by the dtype on disk."""

DICTIONARY_LAYOUT = Layout(
    format="sith-hf/dictionary",
    version=1,
    filename="dictionary.safetensors",
    tensors={
        "embeddings": (torch.float32, "M P"),
        "text_bytes": (torch.uint8, "bytes"),
        "text_offsets": (torch.int64, "offsets"),
    },
    data={
        "encoder": str,
        "encoder_sha256": str,
        "texts_sha256": str,
        "template": (str, type(None)),
        "categories": (list, type(None)),
        "libraries": dict,
    },
    repo_type="dataset",
    rounded=("embeddings",),
)


def read_fields(path: Path, in_memory: bool | None) -> tuple[dict[str, Any], str]:
    """Return the fields of the ``ConceptDictionary`` in a file, and the stored fingerprint of its texts.

    Args:
        path: the file.
        in_memory: as for :meth:`sith_hf.concepts.ConceptDictionary.from_pretrained`.

    Raises:
        ArtifactError: the file is missing, damaged or of another kind, or an embedding is not of unit length.
    """
    least = IN_MEMORY + 1 if in_memory is None else 0
    tensors, data, stored = read_file_backed(path, DICTIONARY_LAYOUT, None if in_memory else "embeddings", least)
    texts, embeddings = texts_of(tensors, path), tensors["embeddings"]
    categories = None if data["categories"] is None else json_texts(data["categories"], f"{path}: categories")
    require(len(texts) == len(embeddings) >= 2, path, "texts and embeddings differ in number")
    require(categories is None or len(categories) == len(texts), path, "texts and categories differ in number")
    _check_rows(stored or TensorAtoms(embeddings), ROUNDED[embeddings.dtype], path)
    try:
        settings = settings_of(data.get("encoder_settings"), "the text tower") or None
        fill_template([], data["template"])
    except InputError as error:
        raise ArtifactError(f"{path}: {error}") from None
    fields = {
        "texts": texts,
        "categories": categories,
        "template": data["template"],
        "embeddings": embeddings if stored else embeddings.float(),
        "encoder": data["encoder"],
        "encoder_sha256": data["encoder_sha256"],
        "encoder_settings": settings,
        "stored": stored,
    }
    return fields, data["texts_sha256"]


def _check_rows(embeddings: Atoms, tolerance: float, path: Path) -> None:
    for block in blocks(embeddings):
        length = block.float().norm(dim=-1)
        require(bool(length.isfinite().all()), path, "embeddings holds NaN or infinity")
        close = bool(((length - 1).abs() <= tolerance).all())
        require(close, path, "the embeddings are not of unit length")
