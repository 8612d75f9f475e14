"""Find what a name means: something on this machine, or a Hub repository; and an artifact in either."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sith_hf.core.escaping import sanitize
from sith_hf.errors import ArtifactError, HubError, InputError
from sith_hf.files import Layout
from sith_hf.hub.download import fetch_file, is_repo_id

# A path may have 4096 bytes.
_LONGEST = 4096


def local_path(name: str | Path) -> Path | None:
    """Return the file or folder that ``name`` is; None if nothing here has this name, and the Hub may have it.

    Every name that may be a path or a repository goes through here, so that a path never reaches the Hub.

    Raises:
        InputError: nothing here has this name, and no repository can have it ("./clip", "a/b/c", "clip/").
    """
    if os.path.exists(name):  # unlike Path.exists, it never raises
        return Path(name)
    if not is_repo_id(str(name)):
        raise InputError(f"{sanitize(str(name), _LONGEST)}: no file or folder has this name: check the path")
    return None


def cached_snapshot(folder: Path) -> tuple[str, str] | None:
    """Return the id and commit of the repository whose snapshot in the Hub's cache a folder is; None for any other."""
    place = Path(os.path.abspath(folder))
    kind, _, name = place.parent.parent.name.partition("--")
    repo_id = name.replace("--", "/", 1)
    known = place.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", place.name) and is_repo_id(repo_id)
    return (repo_id, place.name) if known and kind == "models" else None


def not_found(name: str | Path, error: HubError) -> str:
    """Return the message about a name that is neither here nor, by ``error``, to be had from the Hub."""
    return f"{sanitize(str(name), _LONGEST)}: no file or folder here has this name, and {error}"


def find_artifact(
    name_or_path: str | Path, layout: Layout, revision: str | None = None, token: str | None = None
) -> Path:
    """Return the path of an artifact, downloading it from a Hub repository if needed.

    Args:
        name_or_path: the folder, file or repository.
        layout: the kind of artifact.
        revision: branch, tag or commit of a repository.
        token: a Hub token; the one of the environment or login when None.

    Raises:
        ArtifactError: the artifact is missing, or the Hub could not be reached.
    """
    # An edited checkpoint keeps its spec in the folder sith/.
    places = (layout.filename, f"sith/{layout.filename}")
    try:
        path = local_path(name_or_path)
        if path is not None and path.is_dir():
            for place in places:
                if (path / place).is_file():
                    return path / place
            raise ArtifactError(f"{path} holds no {layout.filename}: name the folder that sith-hf wrote it into")
        if path is not None and path.is_file():
            return path
        if path is not None:
            raise ArtifactError(f"{path} is neither a file nor a folder: check the path")
        types = (layout.repo_type, *(kind for kind in ("model", "dataset") if kind != layout.repo_type))
        return fetch_file(str(name_or_path), places, repo_types=types, revision=revision, token=token)
    except HubError as error:
        raise ArtifactError(not_found(name_or_path, error)) from None
    except ArtifactError:
        raise
    except InputError as error:
        raise ArtifactError(str(error)) from None
    except OSError as error:
        raise ArtifactError(f"{path} could not be read ({error.strerror})") from None
