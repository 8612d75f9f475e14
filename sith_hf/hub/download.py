"""Download files from the Hub into the cache of its client, and check them against the hashes that the Hub names."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from sith_hf.core.escaping import sanitize
from sith_hf.errors import HubError, NotOnHub
from sith_hf.hub.errors import hub_errors
from sith_hf.hub.package import Outgoing

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

_DAMAGED = "arrived damaged (another hash than the Hub names); try again"
# Seconds by which the clock of a file system may lag behind that of the process.
_LAG = 2.0


def is_repo_id(name: str) -> bool:
    """Return whether ``name`` can be the id of a repository on the Hub."""
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
    token: str | Literal[False] | None = None,
) -> Path:
    """Download the first of ``filenames`` that the repository has, and check it.

    Args:
        repo_id: the repository.
        filenames: the names to try, in order.
        repo_types: the types of repository to try, in order.
        revision: branch, tag or commit; ``main`` when None.
        token: a Hub token; the one of the environment or login when None, none at all when False.

    Raises:
        NotOnHub: the repository, the revision or every file is missing.
        HubError: the Hub could not be reached, or the download is damaged.
    """
    missing: list[NotOnHub] = []
    for repo_type, filename in product(repo_types, filenames):
        doing = f"fetching {sanitize(filename)} from {sanitize(repo_id)}"
        try:
            with hub_errors(doing, f"{repo_type} repository", token or None):
                found = hf_hub_download(repo_id, filename, repo_type=repo_type, revision=revision, token=token)
                _check(Path(found))
            return Path(found)
        except NotOnHub as error:
            missing.append(error)
    raise NotOnHub(f"{missing[0]}{_elsewhere(repo_id, repo_types, token)}")


def fetch_snapshot(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Download a model repository, without weights in other formats; return its folder, named by the commit.

    New downloads are checked; files in the cache are trusted.

    Raises:
        NotOnHub: the repository or the revision is missing.
        HubError: the Hub could not be reached, or the download is damaged.
    """
    started, ignored = time.time() - _LAG, list(OTHER_WEIGHTS)
    try:
        with hub_errors(f"fetching {sanitize(repo_id)}", "model repository", token):
            try:
                folder = Path(snapshot_download(repo_id, revision=revision, token=token, ignore_patterns=ignored))
            finally:
                # Check after a failure too: the next attempt would trust the files that arrived.
                damaged = _drop_damaged(repo_id, started)
    except NotOnHub as error:
        raise NotOnHub(f"{error}{_elsewhere(repo_id, ('model',), token)}") from None
    if damaged:
        raise HubError(f"{sanitize(repo_id)}: {damaged} files {_DAMAGED}")
    return folder


def _drop_damaged(repo_id: str, started: float) -> int:
    """Remove blobs newer than ``started`` with a wrong hash from the cache; return their number."""
    place = Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}" / "blobs"
    fresh = [blob for blob in sorted(place.glob("*")) if blob.is_file() and blob.stat().st_mtime >= started]
    damaged = [blob for blob in fresh if not _whole(blob)]
    for blob in damaged:
        blob.unlink()
    return len(damaged)


def _check(path: Path) -> None:
    """Compare a file in the cache with the hash in the name of its blob, and remove it if damaged. Raises HubError.

    In a cache without links (as on Windows) names are not hashes, and nothing is checked.
    """
    blob = path.resolve()
    if blob != path and not _whole(blob):
        blob.unlink()
        path.unlink()
        raise HubError(f"{sanitize(path.name)} {_DAMAGED}")


def _whole(blob: Path) -> bool:
    """Return whether a blob of the cache has the hash in its name: a sha256, or a git object id."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return True
    content = Outgoing(blob.name, blob)
    return blob.name == (content.sha256 if len(blob.name) == 64 else content.git_id)


def _elsewhere(repo_id: str, repo_types: Sequence[str], token: str | Literal[False] | None) -> str:
    """Return a hint if a repository of this name has another type."""
    others = [] if constants.HF_HUB_OFFLINE else [t for t in ("model", "dataset", "space") if t not in repo_types]
    for repo_type in others:
        doing, place = f"looking for {sanitize(repo_id)}", f"{repo_type} repository"
        with suppress(HubError), hub_errors(doing, place, token or None):
            if HfApi(token=token).repo_exists(repo_id, repo_type=repo_type):
                return f" (there is a {repo_type} repository of this name)"
    return ""
