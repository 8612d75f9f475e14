"""The storage of the test Hub: accounts, repositories, immutable commits. It does no networking."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Any

START = datetime(2026, 1, 1, tzinfo=UTC)
LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".npz", ".npy", ".png", ".pt", ".gz", ".zip")
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
BAD_TOKEN = "Invalid credentials in Authorization header"
KINDS = ("model", "dataset", "space")
SDKS = ("gradio", "docker", "static")
SPACE_CARD = """---
title: {name}
emoji: 🐢
colorFrom: red
colorTo: green
sdk: {sdk}
sdk_version: 5.0.0
app_file: app.py
pinned: false
---

Check out the configuration reference at https://huggingface.co/docs/hub/spaces-config-reference
"""


class HubError(Exception):
    """An answer other than success: status, the X-Error-Code the client understands, and what to say."""

    def __init__(self, status: int, message: str, code: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra
        self.headers: dict[str, str] = {}


@dataclass(frozen=True)
class Blob:
    """One version of a file: small ones as git keeps them, large ones by their sha256."""

    data: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        """The LFS object id."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        """The text that git itself would keep for an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The git object id, of the content or of the pointer."""
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        """What the client names the file in its cache by."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """A snapshot of all files that nothing changes any more."""

    sha: str
    parent: str | None
    title: str
    message: str
    author: str
    date: datetime
    files: Mapping[str, Blob]


@dataclass(frozen=True)
class PullRequest:
    """An open pull request; its branch is ``refs/pr/<num>``."""

    num: int
    title: str
    author: str
    date: datetime


@dataclass
class Repo:
    """A repository: refs that move over commits that do not."""

    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, PullRequest] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The user or organization it belongs to."""
        return self.id.split("/")[0]

    @property
    def page(self) -> str:
        """The path of its page below the endpoint."""
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def resolve(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request or full sha names."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def entry(self, revision: str, path: str) -> tuple[Commit, Blob]:
        """A file at a revision."""
        commit = self.resolve(revision)
        if path not in commit.files:
            error = HubError(404, "Entry not found", "EntryNotFound")
            error.headers["X-Repo-Commit"] = commit.sha
            raise error
        return commit, commit.files[path]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The contents of all files at a revision (without ``.gitattributes``), for tests."""
        return {path: blob.data for path, blob in self.resolve(revision).files.items() if path != ".gitattributes"}

    def head(self, revision: str = "main") -> str:
        """The sha that a revision names."""
        return self.resolve(revision).sha

    def log(self, revision: str = "main") -> Iterator[Commit]:
        """The commits of a revision, newest first."""
        commit: Commit | None = self.resolve(revision)
        while commit is not None:
            yield commit
            commit = self.commits[commit.parent] if commit.parent else None

    def add_commit(
        self, branch: str, parent: str | None, title: str, message: str, author: str, files: Mapping[str, Blob]
    ) -> Commit:
        """Make a commit and let the branch point to it."""
        date = START + timedelta(seconds=len(self.commits))
        listing = sorted((path, blob.oid) for path, blob in files.items())
        text = json.dumps([self.kind, self.id, len(self.commits), parent, title, message, author, listing])
        sha = hashlib.sha1(text.encode()).hexdigest()
        commit = Commit(sha, parent, title, message, author, date, MappingProxyType(dict(sorted(files.items()))))
        self.commits[sha] = commit
        self.branches[branch] = sha
        return commit


@dataclass(frozen=True)
class Account:
    """Who a token belongs to and what it may do: ``write``, ``read`` or ``none``."""

    user: str
    role: str


class Store:
    """All accounts and repositories of one test Hub."""

    def __init__(self, lfs_threshold: int) -> None:
        self.lfs_threshold = lfs_threshold
        self.users: dict[str, set[str]] = {}
        self.orgs: set[str] = set()
        self.accounts: dict[str, Account] = {}
        self.repos: dict[tuple[str, str], Repo] = {}

    def add_user(self, name: str, orgs: Iterable[str] = ()) -> None:
        """A user who may write to these organizations, made where they do not exist."""
        self.users[name] = set(orgs)
        self.orgs |= set(orgs)

    def token(self, user: str, role: str = "write") -> str:
        """A new token of a user, made of random letters in the form real ones have."""
        if user not in self.users or role not in ("write", "read", "none"):
            raise ValueError(f"no user {user!r} or no role {role!r}")
        made = "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))
        self.accounts[made] = Account(user, role)
        return made

    def may_write(self, account: Account | None, namespace: str) -> bool:
        """Whether an account may write below a namespace."""
        if account is None or account.role != "write":
            return False
        return namespace == account.user or namespace in self.users[account.user]

    def may_read(self, account: Account | None, repo: Repo) -> bool:
        """Whether an account may read a repository."""
        if not repo.private:
            return True
        if account is None or account.role == "none":
            return False
        return repo.namespace == account.user or repo.namespace in self.users[account.user]

    def find(self, kind: str, repo_id: str, account: Account | None) -> Repo:
        """A repository, if it exists and the account may know about it."""
        repo = self.repos.get((kind, repo_id))
        if repo is not None and self.may_read(account, repo):
            return repo
        if account is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")

    def create(
        self, kind: str, repo_id: str, private: bool = False, author: str = "system", sdk: str | None = None
    ) -> Repo:
        """A new repository with its first commit, as the Hub makes it; that of a Space has a card with its settings."""
        if kind not in KINDS or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
            raise HubError(400, f"Invalid repo id or type: {repo_id} ({kind})")
        repo = Repo(kind, repo_id, private)
        if (kind == "space") != (sdk in SDKS):
            raise HubError(400, f'Invalid value for "sdk" of a {kind}: {sdk}')
        files = {".gitattributes": Blob(ATTRIBUTES)}
        if sdk is not None:
            files["README.md"] = Blob(SPACE_CARD.format(name=repo_id.split("/")[1], sdk=sdk).encode())
        repo.add_commit("main", None, "initial commit", "", author, files)
        self.repos[kind, repo_id] = repo
        return repo

    def is_lfs(self, path: str, size: int, sample: bytes) -> bool:
        """Whether the Hub wants a file as an LFS object: by its name, its size, or because it is not text."""
        if path.endswith(LFS_SUFFIXES) or size >= self.lfs_threshold:
            return True
        try:
            sample.decode()
        except UnicodeDecodeError as error:
            return error.start < len(sample) - 3  # a character cut by the end of the sample is still text
        return b"\0" in sample
