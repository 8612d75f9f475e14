"""Recognise files that are never copied or published: pickles, archives and other weights, by name and by content."""

from __future__ import annotations

import fnmatch
import io
import pickletools
import zipfile
from pathlib import Path

from sith_hf.core.reading import read_start, reason
from sith_hf.hub import OTHER_WEIGHTS

_PICKLES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".dill", ".cpkl"})
_WEIGHTS = (
    *OTHER_WEIGHTS, "*.safetensors", "*.safetensors.index.json", "*.h5", "*.hdf5", "*.keras", "*.msgpack", "*.tflite",
    "*.ot", "*.ggml", "*.engine", "*.mlmodel",
)  # fmt: skip
_WEIGHTS_START = (b"GGUF", b"\x89HDF\r\n\x1a\n", b"ggml")
# Compressed or packed content cannot be searched for tokens.
_ARCHIVES = (
    b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!",
)  # fmt: skip
_HEAD = 2**16


def danger(path: Path) -> str | None:
    """Return why a file may run code or hide its content; None for any other. It is neither unpickled nor unpacked."""
    if path.suffix.lower() in _PICKLES:
        return f"it is a pickle ({path.suffix} files can run code)"
    try:
        head = read_start(path, _HEAD)
        if _is_pickle(head):
            return "it is a pickle, which can run code"
        if head.startswith(b"\x93NUMPY") and b"O" in head[:_HEAD].partition(b"'descr':")[2].partition(b",")[0]:
            return "it is an array of pickled objects, which can run code"
        if head.startswith(_ARCHIVES) or head[257:262] == b"ustar" or zipfile.is_zipfile(path):
            return "it is an archive, whose content cannot be checked"
    except OSError as error:
        return f"it cannot be read ({reason(error)})"
    return None


def is_other_weights(path: Path) -> bool:
    """Return whether a file holds weights, by its name or its content."""
    if any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in _WEIGHTS):
        return True
    try:
        head = read_start(path, _HEAD)
    except OSError:
        return False
    return head.startswith(_WEIGHTS_START) or (head[8:9] == b"{" and b'"data_offsets"' in head)


def _is_pickle(head: bytes) -> bool:
    """Return whether bytes begin with a pickle of any protocol, or with a long part of one."""
    if len(head) > 1 and head[0] == 0x80 and 1 < head[1] < 10:  # from protocol 2 on
        return True
    steps = 0
    try:
        for _ in pickletools.genops(io.BytesIO(head)):
            steps += 1
        # "0.5" is a sequence of opcodes too, but takes from an empty stack.
        pickletools.dis(io.BytesIO(head), out=io.StringIO())
    except (ValueError, KeyError, IndexError, UnicodeDecodeError, OverflowError):
        return len(head) == _HEAD and steps > 1000 and b"\n" in head
    return True
