"""Find an artifact: a file, a file in a folder, or one in a Hub repository."""

from __future__ import annotations

from pathlib import Path

from sith_hf.errors import ArtifactError, HubError
from sith_hf.files import Layout
from sith_hf.hub.download import fetch_file, is_repo_id


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
    path = Path(name_or_path)
    # An edited checkpoint keeps its spec in the folder sith/.
    places = (layout.filename, f"sith/{layout.filename}")
    try:
        if path.is_file():
            return path
        if path.is_dir():
            for place in places:
                if (path / place).is_file():
                    return path / place
            raise ArtifactError(f"{path} holds no {layout.filename}: name the folder that sith-hf wrote it into")
        if path.exists():
            raise ArtifactError(f"{path} is neither a file nor a folder: name the folder that sith-hf wrote")
    except OSError as error:
        raise ArtifactError(f"{path} could not be read ({error.strerror})") from None
    if not is_repo_id(str(name_or_path)):
        raise ArtifactError(f"{path}: no file or folder has this name (check the path), and it is no repository id")
    try:
        types = (layout.repo_type, *(kind for kind in ("model", "dataset") if kind != layout.repo_type))
        return fetch_file(str(name_or_path), places, repo_types=types, revision=revision, token=token)
    except HubError as error:
        raise ArtifactError(f"{name_or_path}: no file or folder has this name (check the path), and {error}") from None
