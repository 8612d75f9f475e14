"""Inputs and results of an upload: the options, the package of files, the result, and the checksum of a card."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

from huggingface_hub import constants

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_start
from sith_hf.core.secrets import find_token, known_tokens
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import HubError, InputError
from sith_hf.hub.errors import OFFLINE

CARD = "README.md"
# The most bytes of a card that are read.
MAX_CARD = 2**26
# What the Hub writes into the README.md of a new Space, after its settings.
_NEW_SPACE = "Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference"
_CHECKSUM = re.compile(r"\n<!-- sith-hf card ([0-9a-f]{64}) -->\n\Z")


class PushOptions(TypedDict, total=False):
    """The options of every ``push_to_hub``.

    Attributes:
        private: make a new repository private. An existing public one is then refused.
        revision: the branch to commit to, created from ``main`` if missing. ``main`` when None.
        create_pr: open a pull request against ``main`` instead of committing.
        commit_message: the title of the commit.
        token: a token with write access; the usual places (``HF_TOKEN``, ``hf auth login``) when None. False for a dry
            run with no token at all.
        overwrite_card: replace a README.md that was written or changed by hand.
        dry_run: send nothing; the result lists what would be sent. Without the Hub, it is not compared with the
            repository.
    """

    private: bool | None
    revision: str | None
    create_pr: bool
    commit_message: str | None
    token: str | Literal[False] | None
    overwrite_card: bool
    dry_run: bool


@dataclass(frozen=True)
class Outgoing:
    """A file to send.

    Attributes:
        path: the name in the repository.
        source: a local file, or the content.
    """

    path: str
    source: Path | bytes = field(repr=False)

    def open(self) -> io.BufferedIOBase:
        """Open the content for reading."""
        return io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")

    @cached_property
    def size(self) -> int:
        """The size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """The hash by which the Hub identifies large files."""
        with self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def git_id(self) -> str:
        """The git object id, by which the Hub identifies small files."""
        start = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with self.open() as file:
            return hashlib.file_digest(file, lambda: start).hexdigest()

    def header(self) -> dict[str, Any]:
        """Read the header of a safetensors file."""
        with self.open() as file:
            found: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return found

    def equals(self, remote: Any) -> bool:
        """Return whether a file on the Hub has the same bytes; None is a missing file."""
        if remote is None or remote.size != self.size:
            return False
        same = remote.lfs.sha256 == self.sha256 if remote.lfs is not None else remote.blob_id == self.git_id
        return bool(same)


@dataclass(frozen=True)
class UploadPackage:
    """The complete content of a repository, and which files it replaces there.

    Attributes:
        files: name in the repository to local file or content, without the card.
        card: the text of the card.
        kind: the file that identifies the kind of the repository; one of ``kinds``.
        kinds: such a file to the name of its kind ("an edit spec").
        repo_type: ``model``, ``dataset`` or ``space``.
        stale: patterns of names; files on the Hub that match and are not in ``files`` are deleted. A pattern without
            a slash matches only files at the top level.
        by_hand: whether somebody wrote the card, which then gets no checksum.
        sdk: what runs a Space; None for other repositories.
    """

    files: Mapping[str, Path | bytes] = field(repr=False)
    card: str = field(repr=False)
    kind: str
    kinds: Mapping[str, str]
    repo_type: str = "model"
    stale: tuple[str, ...] = ()
    by_hand: bool = False
    sdk: str | None = None

    @property
    def title(self) -> str:
        """The default title of the commit."""
        return f"Upload {self.kinds[self.kind]} with sith-hf"

    def clash(self, names: Collection[str]) -> str | None:
        """Return why a repository with these files must not be overwritten; None if it may be."""
        if self.kind in names:
            return None
        for name, kind in self.kinds.items():
            if name in names:
                return f"already holds {kind}: choose another repository"
        own = next((name for name in self.files if name in names), None) if self.repo_type == "space" else None
        if own is not None:
            return f"holds a file that sith-hf did not write ({own}): choose another Space"
        weights = next((name for name in names if re.fullmatch(r"[^/]+\.(bin|h5|msgpack|safetensors)", name)), None)
        if weights is None:
            return None
        return (
            f"holds weights that sith-hf did not write ({weights}): choose another repository, or propose the change "
            "with --create-pr"
        )

    def check_secrets(self, card: str, message: str, token: str | None) -> None:
        """Raise InputError if any byte of what would be sent, text or not, or a name belongs to a token."""
        known = known_tokens(token)
        for name in self.files:
            if (found := find_token([name.encode("utf-8", "replace")], known)) is not None:
                raise InputError(f"the name of a file contains {found}: rename it; nothing was sent")
        texts = {CARD: card.encode(), "the commit message": message.encode("utf-8", "replace")}
        for name, source in (*self.files.items(), *texts.items()):
            with Outgoing(name, source).open() as file:
                found = find_token(iter(lambda: file.read(2**20), b""), known)
            if found is not None:
                raise InputError(f"{sanitize(name)} seems to contain {found}: remove it; nothing was sent")

    def is_stale(self, path: str) -> bool:
        """Return whether a file on the Hub is left over from an earlier push."""
        patterns = (pattern for pattern in self.stale if "/" in pattern or "/" not in path)
        return path not in self.files and any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


@short_repr
@dataclass(frozen=True)
class PushResult:
    """The files that a push sent, or would send.

    Attributes:
        repo_id, repo_type, url: the repository.
        revision: the branch.
        commit: the new commit, or the current one if nothing was sent; None for a dry run and a pull request.
        pull_request: the URL of the pull request, if one was opened.
        sent: name to size in bytes, of the files that differ from the Hub's.
        unchanged: the files that the Hub already has.
        deleted: the stale files that were deleted.
        others: the files of the repository that are neither sent, unchanged nor deleted, such as those of a push by an
            earlier release. Its history keeps the deleted ones too.
        left_out: the files of the local folder that are not part of the upload.
        reasons: each of them to the reason.
        card: the text of the card.
        card_kept: why the README.md on the Hub was kept; None if the card replaced it.
        creates: whether the repository is new.
        dry_run: whether this was a dry run.
        compared: whether the repository was read; False for a dry run without the Hub, whose ``sent`` lists every file.
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
    compared: bool = True
    others: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def nothing_to_do(self) -> bool:
        """Return whether the Hub already had everything."""
        return not self.sent and not self.deleted

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        lists = {name: list(getattr(self, name)) for name in ("unchanged", "deleted", "others", "left_out")}
        more = {"sent": dict(self.sent), "reasons": dict(self.reasons), "nothing_to_do": self.nothing_to_do}
        return {**vars(self), **lists, **more}


def with_checksum(card: str) -> str:
    """Append the checksum by which :func:`is_generated` recognises an unchanged card."""
    text = _CHECKSUM.sub("\n", card).rstrip("\n") + "\n"
    return f"{text}\n<!-- sith-hf card {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_generated(card: str) -> bool:
    """Return whether the card ends with its checksum: generated here and unchanged since (except line endings)."""
    text = card.replace("\r\n", "\n").rstrip("\n") + "\n"
    found = _CHECKSUM.search(text)
    return found is not None and with_checksum(text[: found.start()]) == text


def is_of_new_space(card: str) -> bool:
    """Return whether the card is the one that the Hub writes for a new Space."""
    settings, end, text = card.replace("\r\n", "\n").partition("\n---\n")
    return settings.startswith("---\n") and bool(end) and text.strip() == _NEW_SPACE


def is_generated_file(path: Path) -> bool:
    """Return whether a file is a card for which :func:`is_generated` holds."""
    try:
        return is_generated(read_start(path, MAX_CARD).decode("utf-8", "replace"))
    except OSError:
        return False


def check_options(options: PushOptions) -> None:
    """Fail early on options that cannot work.

    Raises:
        InputError: unknown options, or options that exclude each other.
        HubError: offline mode is on, and this is no dry run.
    """
    unknown = set(options) - set(PushOptions.__annotations__)
    if unknown:
        raise InputError(
            f"unknown option {', '.join(sorted(unknown))}: push_to_hub has {', '.join(PushOptions.__annotations__)}"
        )
    if options.get("create_pr") and options.get("revision") not in (None, "main"):
        raise InputError("create_pr and revision exclude each other (a pull request is for main): leave out revision")
    if constants.HF_HUB_OFFLINE and not options.get("dry_run"):
        raise HubError(OFFLINE)
