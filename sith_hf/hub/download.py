"""Download files from the Hub into the cache of its client, and check them against the hashes that the Hub names."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from sith_hf.core.escaping import sanitize
from sith_hf.errors import HubError, NotOnHub
from sith_hf.hub.errors import hub_errors

# The same weights in other formats, which an edit does not change.
OTHER_WEIGHTS = (
    "*pytorch_model*.bin",
    "*pytorch_model*.bin.index.json",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "rust_model.ot",
    "*.onnx",
    "*.gguf",
)

_CHUNK = 16 * 2**20
_DAMAGED = "arrived damaged (another hash than the Hub names); try again"
_TYPES = ("model", "dataset", "space")
# Seconds by which the clock of a file system may lag behind that of the process.
_LAG = 2.0


def is_repo_id(name: str) -> bool:
    """Whether this can be the id of a repository on the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def fetch_file(
    repo_id: str,
    filenames: Sequence[str],
    *,
    repo_types: Sequence[str] = ("model",),
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """Download the first of ``filenames`` that the repository has, and check it.

    Args:
        repo_id: the repository.
        filenames: the names to try, in order.
        repo_types: the types of repository to try, in order.
        revision: branch, tag or commit; ``main`` when None.
        token: the usual places when None.

    Raises:
        NotOnHub: no such repository, revision or file.
        HubError: the Hub could not be reached, or the download is damaged.
    """
    first: NotOnHub | None = None
    for repo_type in repo_types:
        for filename in filenames:
            try:
                with hub_errors(
                    f"fetching {sanitize(filename)} from {sanitize(repo_id)}", f"{repo_type} repository", token
                ):
                    found = Path(
                        hf_hub_download(repo_id, filename, repo_type=repo_type, revision=revision, token=token)
                    )
                    _check(found)
                return found
            except NotOnHub as error:
                first = first or error
    assert first is not None
    raise NotOnHub(f"{first}{_elsewhere(repo_id, repo_types, token)}")


def fetch_snapshot(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Download a model repository, without weights in other formats; return its folder, named by the commit.

    Fresh downloads are checked; files that were in the cache are trusted.

    Raises:
        NotOnHub: no such repository or revision.
        HubError: the Hub could not be reached, or the download is damaged.
    """
    started = time.time() - _LAG
    ignored = list(OTHER_WEIGHTS)
    damaged: list[str] = []
    try:
        with hub_errors(f"fetching {sanitize(repo_id)}", "model repository", token):
            try:
                folder = Path(snapshot_download(repo_id, revision=revision, token=token, ignore_patterns=ignored))
            finally:
                # After a failure too: the next attempt would trust what has arrived until now.
                damaged = _drop_damaged(repo_id, started)
    except NotOnHub as error:
        raise NotOnHub(f"{error}{_elsewhere(repo_id, ('model',), token)}") from None
    if damaged:
        raise HubError(f"{sanitize(repo_id)}: {len(damaged)} files {_DAMAGED}")
    return folder


def _drop_damaged(repo_id: str, started: float) -> list[str]:
    """Remove blobs newer than ``started`` with a wrong hash from the cache; return their names."""
    place = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}" / "blobs"
    fresh = [blob for blob in sorted(place.glob("*")) if blob.is_file() and blob.stat().st_mtime >= started]
    damaged = [blob for blob in fresh if not _whole(blob)]
    for blob in damaged:
        blob.unlink()
    return [blob.name for blob in damaged]


def _check(path: Path) -> None:
    """Compare a file in the cache with the hash in the name of its blob. Raises HubError.

    A damaged file is removed, so that the next attempt downloads it again. A cache without links (as on Windows) has
    no such names, and the file is not checked.
    """
    blob = path.resolve()
    if blob != path and not _whole(blob):
        blob.unlink()
        path.unlink()
        raise HubError(f"{sanitize(path.name)} {_DAMAGED}")


def _whole(blob: Path) -> bool:
    """Whether a blob of the cache has the hash in its name: a sha256, or a git object id."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return True
    head = b"blob %d\0" % blob.stat().st_size
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(head, usedforsecurity=False)
    with blob.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest() == blob.name


def _elsewhere(repo_id: str, repo_types: Sequence[str], token: str | None) -> str:
    """Return a hint if a repository of this name has another type."""
    if not constants.HF_HUB_OFFLINE:
        for repo_type in _TYPES:
            if repo_type not in repo_types:
                place = f"{repo_type} repository"
                with suppress(HubError), hub_errors(f"looking for {sanitize(repo_id)}", place, token):
                    if HfApi(token=token).repo_exists(repo_id, repo_type=repo_type):
                        return f" (there is a {repo_type} repository of this name)"
    return ""
