"""What an upload takes and returns: the options, the package of files, the result, and the checksum of a card."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from huggingface_hub import constants

from sith_hf.errors import HubError, InputError
from sith_hf.hub.errors import OFFLINE

CARD = "README.md"
_CHUNK = 16 * 2**20
_CHECKSUM = re.compile(r"\n<!-- sith-hf card ([0-9a-f]{64}) -->\n\Z")


class PushOptions(TypedDict, total=False):
    """The options of every ``push_to_hub``.

    Attributes:
        private: make a new repository private. An existing public one is then refused.
        revision: the branch to commit to, created from ``main`` if missing. ``main`` when None.
        create_pr: open a pull request against ``main`` instead of committing.
        commit_message: the title of the commit.
        token: a token with write access; the usual places (``HF_TOKEN``, ``hf auth login``) when None.
        overwrite_card: replace a README.md that was written or changed by hand.
        dry_run: send nothing; the result lists what would be sent.
    """

    private: bool | None
    revision: str | None
    create_pr: bool
    commit_message: str | None
    token: str | None
    overwrite_card: bool
    dry_run: bool


@dataclass(frozen=True)
class Outgoing:
    """A file to send.

    Attributes:
        path: its name in the repository.
        source: a local file, or the content itself.
    """

    path: str
    source: Path | bytes = field(repr=False)

    @cached_property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    @cached_property
    def hashes(self) -> tuple[str, str]:
        """The sha256, by which the Hub knows large files, and the git object id, by which it knows small ones."""
        large, small = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        if isinstance(self.source, bytes):
            large.update(self.source)
            small.update(self.source)
        else:
            with self.source.open("rb") as file:
                while piece := file.read(_CHUNK):
                    large.update(piece)
                    small.update(piece)
        return large.hexdigest(), small.hexdigest()

    def header(self) -> dict[str, Any]:
        """Read the header of a safetensors file."""
        if isinstance(self.source, bytes):
            content = self.source
        else:
            with self.source.open("rb") as file:
                content = file.read(8)
                content += file.read(int.from_bytes(content, "little"))
        found: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return found


@dataclass(frozen=True)
class UploadPackage:
    """The complete content of a repository, and what may be replaced there.

    Attributes:
        files: name in the repository to local file or content, without the card.
        card: the text of the card.
        kind: the file by which a repository of this kind is known; one of ``kinds``.
        kinds: for each such file, what the repository then holds ("an edit spec").
        repo_type: ``model`` or ``dataset``.
        stale: patterns of names; files on the Hub that match and are not in ``files`` are deleted. A pattern without
            a slash matches only files at the top level.
    """

    files: Mapping[str, Path | bytes] = field(repr=False)
    card: str = field(repr=False)
    kind: str
    kinds: Mapping[str, str]
    repo_type: str = "model"
    stale: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The default title of the commit."""
        return f"Upload {self.kinds[self.kind]} with sith-hf"

    def clash(self, names: Collection[str]) -> str | None:
        """Return why a repository with these files must not be overwritten; None if it may be."""
        if self.kind in names:
            return None
        for name, what in self.kinds.items():
            if name in names:
                return f"holds {what} already: choose another repository"
        for name in names:
            if re.fullmatch(r"[^/]+\.(bin|h5|msgpack|safetensors)", name):
                return (
                    f"holds weights that sith-hf did not write ({name}): choose another repository, or propose the "
                    "change with --create-pr"
                )
        return None

    def is_stale(self, path: str) -> bool:
        """Whether a file on the Hub is left over from an earlier push."""
        return path not in self.files and any(
            fnmatch.fnmatchcase(path, pattern) and ("/" in pattern or "/" not in path) for pattern in self.stale
        )


@dataclass(frozen=True)
class PushResult:
    """What a push sent, or would send.

    Attributes:
        repo_id, repo_type, url: the repository.
        revision: the branch.
        commit: the new commit, or the present one if nothing had to be sent; None for a dry run and a pull request.
        pull_request: the URL of the pull request, if one was opened.
        sent: name to size in bytes, of the files that differ from the Hub's.
        unchanged: the files that the Hub already has.
        deleted: the stale files that were deleted.
        card: the text of the generated card.
        card_kept: why the README.md on the Hub was kept; None if the card replaced it.
        creates: whether the repository is new.
        dry_run: whether this was a dry run.
    """

    repo_id: str
    repo_type: str
    url: str
    revision: str
    commit: str | None
    pull_request: str | None
    sent: Mapping[str, int]
    unchanged: tuple[str, ...]
    deleted: tuple[str, ...]
    card: str = field(repr=False)
    card_kept: str | None
    creates: bool
    dry_run: bool

    @property
    def nothing_to_do(self) -> bool:
        """Whether the Hub already had everything."""
        return not self.sent and not self.deleted

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        lists = {"unchanged": list(self.unchanged), "deleted": list(self.deleted), "sent": dict(self.sent)}
        return {**vars(self), **lists, "nothing_to_do": self.nothing_to_do}


def with_checksum(card: str) -> str:
    """Append the checksum by which :func:`is_generated` recognises an unchanged card."""
    text = _CHECKSUM.sub("\n", card).rstrip("\n") + "\n"
    return f"{text}\n<!-- sith-hf card {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_generated(card: str) -> bool:
    """Whether the card ends with the right checksum: generated here, and unchanged since (except line endings)."""
    text = card.replace("\r\n", "\n").rstrip("\n") + "\n"
    found = _CHECKSUM.search(text)
    return found is not None and with_checksum(text[: found.start()]) == text


def same_bytes(item: Outgoing, there: Any) -> bool:
    """Whether the file on the Hub has the bytes of the local one."""
    if there is None or there.size != item.size:
        return False
    large, small = item.hashes
    return bool(there.lfs.sha256 == large if there.lfs is not None else there.blob_id == small)


def check_options(options: PushOptions) -> None:
    """Fail early on options that cannot work.

    Raises:
        InputError: unknown options, or options that exclude each other.
        HubError: offline mode is on.
    """
    unknown = set(options) - set(PushOptions.__annotations__)
    if unknown:
        raise InputError(
            f"push_to_hub has no option {', '.join(sorted(unknown))}; it has {', '.join(PushOptions.__annotations__)}"
        )
    if options.get("create_pr") and options.get("revision") not in (None, "main"):
        raise InputError(
            "create_pr and revision exclude each other, since a pull request goes to main: leave out one of them"
        )
    if constants.HF_HUB_OFFLINE:
        raise HubError(OFFLINE)
