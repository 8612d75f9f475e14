"""What is pushed and what came of it: the files, the options, the result, and the seal on a card of ours."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from huggingface_hub import constants

from sith_hf.errors import HubError, InputError
from sith_hf.hub.errors import OFFLINE

CARD = "README.md"
_CHUNK = 16 * 2**20
_SEAL = re.compile(r"\n<!-- sith-hf card ([0-9a-f]{64}) -->\n\Z")


class PushOptions(TypedDict, total=False):
    """What every ``push_to_hub`` takes.

    Attributes:
        private: make a new repository private. An existing public one is then refused.
        revision: the branch to commit to, made from ``main`` where it is missing. ``main`` when None.
        create_pr: open a pull request against ``main`` instead of committing.
        commit_message: the title of the commit.
        token: a token with write access; the usual places (``HF_TOKEN``, ``hf auth login``) when None.
        overwrite_card: replace a README.md that somebody wrote or changed by hand.
        dry_run: send nothing; the result says what would be sent.
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
        """Its sha256, by which the Hub knows large files, and its git object id, by which it knows small ones."""
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
        """The header of a safetensors file."""
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
    """What belongs together in a repository.

    Attributes:
        files: name in the repository to local file or content, without the card.
        card: the text of the card, given the full id of the repository.
        stale: patterns of names; files of an earlier push that match and are not in ``files`` are deleted. One
            without a slash means files at the top alone.
        clash: given the names in the repository, why this must not go there; None where it may.
        marks: what a card names that describes just these files, such as their fingerprints; empty where none does.
    """

    files: Mapping[str, Path | bytes] = field(repr=False)
    card: Callable[[str], str] = field(repr=False)
    stale: tuple[str, ...] = ()
    clash: Callable[[Collection[str]], str | None] = lambda names: None
    marks: Collection[str] = ()

    def described_by(self, card: str) -> bool:
        """Whether a card of ours on the Hub is about these very files."""
        return bool(self.marks) and all(mark in card for mark in self.marks)

    def is_stale(self, path: str) -> bool:
        """Whether a file on the Hub is left over from an earlier push."""
        return path not in self.files and any(
            fnmatch.fnmatchcase(path, pattern) and ("/" in pattern or "/" not in path) for pattern in self.stale
        )


@dataclass(frozen=True)
class PushResult:
    """What was sent, or would be.

    Attributes:
        repo_id, repo_type, url: where to.
        revision: the branch.
        commit: the commit, the present one where nothing had to be sent; None for a dry run and a pull request.
        pull_request: the address of the pull request, where one was opened.
        sent: name to size in bytes of the files that were new or other than on the Hub.
        unchanged: the files that are on the Hub already.
        deleted: stale files that went.
        card: the text of our card.
        card_kept: why the README.md on the Hub was left as it is, None where it is ours.
        creates: whether the repository had to be made.
        dry_run: whether nothing was sent because none was to be.
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
        """Whether the Hub had everything already."""
        return not self.sent and not self.deleted

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        lists = {"unchanged": list(self.unchanged), "deleted": list(self.deleted), "sent": dict(self.sent)}
        return {**vars(self), **lists, "nothing_to_do": self.nothing_to_do}


def with_checksum(card: str) -> str:
    """The card with a mark at its end by which :func:`is_generated` knows it, as long as nobody changes it."""
    text = _SEAL.sub("\n", card).rstrip("\n") + "\n"
    return f"{text}\n<!-- sith-hf card {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def is_generated(card: str) -> bool:
    """Whether :func:`with_checksum` made this card, and nobody changed it since (but for the ends of its lines)."""
    text = card.replace("\r\n", "\n").rstrip("\n") + "\n"
    found = _SEAL.search(text)
    return found is not None and with_checksum(text[: found.start()]) == text


def same_bytes(item: Outgoing, there: Any) -> bool:
    """Whether the file on the Hub has the bytes of the local one."""
    if there is None or there.size != item.size:
        return False
    large, small = item.hashes
    return bool(there.lfs.sha256 == large if there.lfs is not None else there.blob_id == small)


def check_options(options: PushOptions) -> None:
    """Refuse what cannot work, before anything is made or asked for it.

    Raises:
        InputError: unknown options, or options that exclude each other.
        HubError: offline mode is on.
    """
    unknown = set(options) - set(PushOptions.__annotations__)
    if unknown:
        raise InputError(f"push_to_hub takes no {', '.join(sorted(unknown))}")
    if options.get("create_pr") and options.get("revision") not in (None, "main"):
        raise InputError("a pull request goes against main: leave out either create_pr or revision")
    if constants.HF_HUB_OFFLINE:
        raise HubError(OFFLINE)
