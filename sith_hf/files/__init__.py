"""Atomic files and folders, safetensors artifacts with checksums, file-backed rows, resumable jobs, the cache of text
embeddings, torch files.

It imports ``core`` and ``errors``.
"""

from sith_hf.files.artifact import (
    Layout,
    check_data,
    json_texts,
    library_versions,
    read_artifact,
    read_file_backed,
    read_versions,
    require,
    text_tensors,
    texts_of,
    write_artifact,
)
from sith_hf.files.atomic import already_has, new_folder, scratch_folder, sweep, write_whole
from sith_hf.files.cache import CachedList, EmbeddingCache
from sith_hf.files.resumable import Part, ResumableJob, resumes_from
from sith_hf.files.tensor_file import DTYPES, Entry, FileBackedRows, RowBlocks, TensorFile, raw_bytes
from sith_hf.files.torch_file import TorchFile, is_torch_file
from sith_hf.files.unchanged import write_all

__all__ = [
    "already_has",
    "CachedList",
    "DTYPES",
    "EmbeddingCache",
    "Entry",
    "FileBackedRows",
    "Layout",
    "Part",
    "ResumableJob",
    "RowBlocks",
    "TensorFile",
    "TorchFile",
    "check_data",
    "is_torch_file",
    "json_texts",
    "library_versions",
    "new_folder",
    "raw_bytes",
    "read_artifact",
    "read_file_backed",
    "read_versions",
    "require",
    "resumes_from",
    "scratch_folder",
    "sweep",
    "text_tensors",
    "texts_of",
    "write_all",
    "write_artifact",
    "write_whole",
]
