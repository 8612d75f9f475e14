"""Publish the explorer as a Space on the Hub, and its decomposition as a dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Unpack

from sith_hf.cards import hub_base, space_card
from sith_hf.checkpoint import card_metadata
from sith_hf.core.fingerprint import BaseRef
from sith_hf.errors import HubError, InputError, MissingExtra
from sith_hf.explore.explorer import Explorer
from sith_hf.files import library_versions
from sith_hf.hub import (
    CARD,
    PushOptions,
    PushResult,
    UploadPackage,
    cached_snapshot,
    check_options,
    fetch_file,
    full_repo_id,
    local_path,
    upload_package,
)
from sith_hf.publish import push_artifact

# What says that sith-hf wrote a Space.
RECORD = "sith/space.json"
KINDS = {RECORD: "an explorer"}
# The second index has releases of torch without the libraries of a GPU, which a Space does without.
_REQUIREMENTS = """\
--extra-index-url https://download.pytorch.org/whl/cpu
torch
sith-hf[explore]=={version}
"""
_APP = '''\
"""The explorer of sith-hf for one decomposition."""

from sith_hf.explore import Explorer, launch

launch(Explorer.open({arguments}){mcp})
'''


@dataclass(frozen=True)
class PushedSpace:
    """What was pushed, or would be.

    Attributes:
        dataset: the upload of the decomposition; None if it is on the Hub already.
        space: the upload of the Space.
    """

    dataset: PushResult | None
    space: PushResult

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"dataset": None if self.dataset is None else self.dataset.to_json(), "space": self.space.to_json()}


def push_space(explorer: Explorer, repo_id: str, *, mcp: bool = False, **options: Unpack[PushOptions]) -> PushedSpace:
    """Publish an explorer as a Space, in one commit, and its decomposition as a dataset, in another.

    The dataset is ``<repo_id>-decomposition``; a decomposition that was read from the Hub stays where it is, in a
    dataset or model repository. The Space names the model, the images and what to compare with, which must be on the
    Hub or part of sith-hf.

    Args:
        explorer: what the Space shows.
        repo_id: ``namespace/name``; a name alone belongs to the user of the token.
        mcp: whether the Space also serves MCP tools.
        options: see :class:`sith_hf.hub.PushOptions`.

    Raises:
        InputError: a folder of this machine that the Space cannot read, or a repository with other content.
        HubError: the Hub refused, failed or could not be reached. The message gives the state of the repositories.
        MissingExtra: without Gradio, whose release the Space runs.
    """
    check_options(options)
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        raise MissingExtra("gradio", "explore") from None
    for option, name in (("--model", explorer.model), ("--images", explorer.images), ("--with", explorer.other)):
        if name is not None and local_path(name) is not None:
            raise InputError(
                f"{option} {name} is on this machine, and a Space cannot read it: push it and name its Hub id, or "
                f"leave {option} out"
            )
    repo_id = full_repo_id(repo_id, options)
    on_hub = explorer.path is not None and local_path(explorer.source) is None
    dataset = None if on_hub else push_artifact(explorer.decomposition, f"{repo_id}-decomposition", **options)
    place = explorer.source if dataset is None else dataset.repo_id
    named = {"model": explorer.model, "images": explorer.images, "other": explorer.other}
    card = space_card(
        explorer.decomposition,
        decomposition=place,
        kind="model" if on_hub and _in_a_model_repository(explorer.path) else "dataset",
        gradio=gradio,
        model=explorer.model,
        images=explorer.images,
        base_card=_base_card(explorer.decomposition.base, options.get("token") or None),
        private=bool(options.get("private")),
    )
    package = UploadPackage(_files(place, named, mcp), card, RECORD, KINDS, "space", sdk="gradio")
    try:
        return PushedSpace(dataset, upload_package(package, repo_id, options))
    except (HubError, InputError) as error:
        if dataset is None or dataset.dry_run:
            raise
        raise type(error)(f"{error}; the decomposition is at {dataset.url}") from None


def _in_a_model_repository(path: Path | None) -> bool:
    """Return whether a file of the Hub's cache, or the folder ``sith/`` with it, comes from a model repository."""
    return path is not None and any(cached_snapshot(folder) for folder in (path.parent, path.parent.parent))


def _files(decomposition: str, named: Mapping[str, str | None], mcp: bool) -> dict[str, Path | bytes]:
    given = {name: value for name, value in named.items() if value is not None}
    arguments = ", ".join([repr(decomposition), *(f"{name}={value!r}" for name, value in given.items())])
    record = {"format": "sith-hf/space", "version": 1, "decomposition": decomposition, **named}
    texts = {
        "app.py": _APP.format(arguments=arguments, mcp=", mcp=True" if mcp else ""),
        "requirements.txt": _REQUIREMENTS.format(version=version("sith-hf")),
        RECORD: json.dumps({**record, "libraries": library_versions()}, indent=2, sort_keys=True) + "\n",
    }
    return {name: text.encode("utf-8") for name, text in texts.items()}


def _base_card(base: BaseRef, token: str | None) -> dict[str, Any] | None:
    """Return the metadata of the card of a base on the Hub, which has the license; None if it is not to be had."""
    found = hub_base(base)
    try:
        return None if found is None else card_metadata(fetch_file(found, [CARD], revision=base.revision, token=token))
    except HubError:
        return None
