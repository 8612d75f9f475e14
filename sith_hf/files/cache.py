"""The cache of text embeddings: a safetensors file for each text tower and list of texts, shared by all runs.

A file is named after the sha256 of the facts that determine its content to the last bit, and holds them. It is written
whole or not at all and checked in full when read, so that processes need no lock. Without a usable file the embeddings
are computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import reason
from sith_hf.errors import ArtifactError, OutputError, TemporaryError
from sith_hf.files.artifact import Layout, library_versions, read_artifact, write_artifact
from sith_hf.files.atomic import sweep
from sith_hf.files.tensor_file import TensorFile

CACHE_LAYOUT = Layout(
    format="sith-hf/cached-embeddings",
    version=1,
    filename="",  # the sha256 of the facts
    tensors={"embeddings": (torch.float32, "M P")},
    data={"facts": str, "about": dict},
)

_ABOUT = ("encoder", "template")
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
_UNIT = 1e-3
# Every use would otherwise change a file that another process may be reading.
_RECENT = 60.0
_TRIES = 3


def cache_folder() -> Path:
    """Return the folder of the cache: below ``SITH_HF_HOME``, or ``sith_hf`` in the ``HF_HOME`` of huggingface_hub."""
    from huggingface_hub import constants

    home = os.environ.get("SITH_HF_HOME") or os.path.join(constants.HF_HOME, "sith_hf")
    return Path(os.path.expanduser(home)) / "embeddings"


@dataclass(frozen=True)
class CachedList:
    """A file of the cache.

    Attributes:
        file: its name.
        bytes: its size.
        last_used: seconds since 1970, to a minute.
        concepts: the number of texts; None if the file is damaged, so that it will be replaced.
        encoder: the name of the text model.
        template: the prompt template.
    """

    file: str
    bytes: int
    last_used: float
    concepts: int | None = None
    encoder: str | None = None
    template: str | None = None


@dataclass(frozen=True)
class EmbeddingCache:
    """Text embeddings that earlier runs computed.

    Attributes:
        folder: its folder. A link in its place is not followed.
        about: the name of the text model and the template, for :meth:`lists`.
    """

    folder: Path = field(default_factory=cache_folder)
    about: Mapping[str, str | None] = field(default_factory=dict)

    def get(self, facts: Mapping[str, Any], shape: tuple[int, int]) -> Tensor | None:
        """Return the embeddings ``[M, P]`` float32 of these facts; None if they are not there, whole and sound."""
        text = _settled(facts)
        layout = _layout(text)
        path = self.folder / layout.filename
        if os.path.islink(self.folder) or os.path.islink(path):
            return None
        for _ in range(_TRIES):
            try:
                tensors, data = read_artifact(path, layout)
            except TemporaryError:
                continue  # another process marked it as used
            except (ArtifactError, OSError, ValueError):
                return None
            found = tensors["embeddings"]
            sound = data["facts"] == text and found.shape == shape
            if not sound or float((found.norm(dim=-1) - 1).abs().max()) > _UNIT:
                return None
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _RECENT:
                    os.utime(path)
            return found
        return None

    def put(self, facts: Mapping[str, Any], embeddings: Tensor) -> None:
        """Keep the embeddings ``[M, P]`` float32 of these facts. A failure is one line on stderr."""
        text = _settled(facts)
        try:
            if os.path.islink(self.folder):
                raise OSError("it is a link")
            write_artifact(
                self.folder, _layout(text), {"embeddings": embeddings}, {"facts": text, "about": dict(self.about)}
            )
        except (OutputError, OSError, ValueError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            _report(
                f"note: {sanitize(str(self.folder), 400)} cannot keep embeddings for later runs "
                f"({sanitize(str(reason(cause)), 200)}); name another folder with SITH_HF_HOME"
            )

    def lists(self) -> list[CachedList]:
        """Return the files of the cache, the last used first. Files of others are not among them."""
        found = [item for path in self._files() if (item := _read(path)) is not None]
        return sorted(found, key=lambda item: (-item.last_used, item.file))

    def clear(self) -> list[CachedList]:
        """Remove the files of the cache and return them. Links are not followed, and files of others stay."""
        removed = []
        for item in self.lists():
            with suppress(OSError):
                (self.folder / item.file).unlink()
                removed.append(item)
        if not os.path.islink(self.folder):
            sweep(self.folder)
        return removed

    def _files(self) -> list[Path]:
        if os.path.islink(self.folder):
            return []
        try:
            return [self.folder / name for name in sorted(os.listdir(self.folder)) if _NAME.fullmatch(name)]
        except (OSError, ValueError):
            return []


def _read(path: Path) -> CachedList | None:
    """Return what a file of the cache holds; None for something else under such a name."""
    try:
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            return None
        item = CachedList(path.name, state.st_size, state.st_mtime)
        with TensorFile.read(path) as (found, _):
            if found.metadata.get("format") != CACHE_LAYOUT.format:
                return None
            about = json.loads(found.metadata["sith"])["about"]
            encoder, template = (text if isinstance(text := about.get(name), str) else None for name in _ABOUT)
            return replace(item, concepts=found.entries["embeddings"].shape[0], encoder=encoder, template=template)
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, TemporaryError):
        return item


def _settled(facts: Mapping[str, Any]) -> str:
    """Return facts as text, with what decides the last bits too."""
    own = {
        "libraries": library_versions(),
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    return json.dumps({**facts, **own}, sort_keys=True, ensure_ascii=True, allow_nan=False)


def _layout(text: str) -> Layout:
    return replace(CACHE_LAYOUT, filename=f"{hashlib.sha256(text.encode('ascii')).hexdigest()}.safetensors")


@cache
def _report(line: str) -> None:
    """Print a line on stderr, once."""
    print(line, file=sys.stderr)
