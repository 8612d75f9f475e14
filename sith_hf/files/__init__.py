"""Files that appear whole or not at all, and are read with suspicion.

Atomic files and folders, safetensors artifacts with checksums, tensors read from a file in blocks, files that must not
change while they are read, and resumable jobs. It imports ``core`` and ``errors``.
"""

from sith_hf.files.artifact import (
    Layout,
    json_texts,
    library_versions,
    read_artifact,
    require,
    staged,
    text_tensors,
    texts_of,
    write_artifact,
    write_whole,
)
from sith_hf.files.atomic import new_folder
from sith_hf.files.resumable import Part, ResumableJob
from sith_hf.files.tensor_file import DTYPES, FileBackedRows, read_beside, stored_dtype, write_beside
from sith_hf.files.unchanged import Stamp, UnchangedFile, write_all

__all__ = [
    "DTYPES",
    "FileBackedRows",
    "Layout",
    "Part",
    "ResumableJob",
    "Stamp",
    "UnchangedFile",
    "json_texts",
    "library_versions",
    "new_folder",
    "read_artifact",
    "read_beside",
    "require",
    "staged",
    "stored_dtype",
    "text_tensors",
    "texts_of",
    "write_all",
    "write_artifact",
    "write_beside",
    "write_whole",
]
