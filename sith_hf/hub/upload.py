"""Upload files to a repository in one commit, and verify that they arrived.

Either everything arrives or the repository is unchanged: the commit names its parent, a repository or branch created
for a failed upload is deleted, and a commit is found even if the Hub's answer to it was lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_bytes
from sith_hf.errors import HubError, InputError
from sith_hf.hub.download import fetch_file, is_repo_id
from sith_hf.hub.errors import hub_errors, refused, unreachable
from sith_hf.hub.package import (
    CARD,
    Outgoing,
    PushOptions,
    PushResult,
    UploadPackage,
    is_generated,
    is_of_new_space,
    with_checksum,
)

UNSURE = "perhaps"


def full_repo_id(repo_id: str, options: PushOptions) -> str:
    """Return ``namespace/name``; a name alone belongs to the user of the token, and stays alone in a dry run offline.

    Raises:
        InputError: an invalid id.
        HubError: no token, or the Hub could not be reached.
    """
    token = _token(options)
    if not is_repo_id(repo_id):
        raise InputError(f"{sanitize(repo_id)!r} cannot be the id of a repository: use namespace/name")
    if "/" in repo_id or token is None:
        return repo_id
    try:
        with hub_errors("asking the Hub for the user of the token", "account", token):
            account = HfApi(token=token).whoami()
    except HubError as error:
        if options.get("dry_run") and unreachable(error):
            return repo_id
        raise
    name = account.get("name") if isinstance(account, dict) else None
    if not isinstance(name, str) or not is_repo_id(f"{name}/{repo_id}"):
        raise HubError("the Hub's answer names no user for this token: use namespace/name")
    return f"{name}/{repo_id}"


def upload_package(package: UploadPackage, repo_id: str, options: PushOptions) -> PushResult:
    """Make the repository hold ``package``, in one commit, and verify it.

    Args:
        package: the files and the card.
        repo_id: as :func:`full_repo_id` returns it.
        options: as :func:`sith_hf.hub.check_options` accepts them.

    Raises:
        InputError: a repository with other content, a file that cannot be read, or a token in what would be sent.
        HubError: the Hub refused, failed or could not be reached. The message gives the state of the repository.
    """
    try:
        return _Upload(package, repo_id, options).run()
    except HubError:
        raise
    except OSError as error:
        raise InputError(f"{error.filename}: the file could not be read ({error.strerror}); nothing was sent") from None


def _token(options: PushOptions) -> str | None:
    """Return the token to use; None only for a dry run. Raises HubError."""
    given = options.get("token")
    token = given or None
    with hub_errors("looking for a token", "token", token):
        token = token or (None if given is False else get_token())
    if not token and not options.get("dry_run"):
        raise HubError(
            "pushing needs a token with write access: log in with `hf auth login`, set HF_TOKEN, or pass --token"
        )
    if token and not re.fullmatch(r"[!-~]+", token):
        raise HubError("the token contains invalid characters: copy it again, or log in with `hf auth login`")
    return token or None


class _Upload:
    """One upload. ``made`` is what was created for it and must be deleted if it fails: repository or branch."""

    def __init__(self, package: UploadPackage, repo_id: str, options: PushOptions) -> None:
        self.package, self.repo_id, self.repo_type, self.options = package, repo_id, package.repo_type, options
        self.repo: dict[str, Any] = {"repo_id": repo_id, "repo_type": self.repo_type}
        self.name = sanitize(repo_id)
        self.token = _token(options)
        self.api = HfApi(token=self.token or False)
        self.revision = options.get("revision") or "main"
        self.dry_run, self.create_pr = bool(options.get("dry_run")), bool(options.get("create_pr"))
        self.place = f"{self.repo_type} repository {self.name}"
        page = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        self.url = f"{constants.ENDPOINT}/{page}{repo_id}"
        self.made: str | None = None
        self.start = ""
        self.there: dict[str, Any] = {}
        self.branch_missing = self.uncertain = False
        self.compared = True

    def hub_errors(self, doing: str) -> AbstractContextManager[None]:
        return hub_errors(doing, self.place, self.token)

    def run(self) -> PushResult:
        card = self.package.card if self.package.by_hand else with_checksum(self.package.card)
        self.package.check_secrets(card, self.options.get("commit_message") or "", self.token)
        head = self._look()
        if not self.create_pr and (reason := self.package.clash(self.there)) is not None:
            raise InputError(f"{self.name} {reason}; nothing was sent")
        kept = self._card_to_keep(head, card)
        named = {**self.package.files, **({} if kept else {CARD: card.encode()})}
        self.files = [Outgoing(path, source) for path, source in sorted(named.items())]
        self.deleted = tuple(sorted(path for path in self.there if self.package.is_stale(path)))
        self.sent = [item for item in self.files if not item.equals(self.there.get(item.path))]
        commit, pull_request = head, None
        if (self.sent or self.deleted) and not self.dry_run:
            commit, pull_request = self._send(head)
        return PushResult(
            **self.repo,
            url=self.url,
            revision=self.revision,
            commit=None if self.dry_run or pull_request else commit,
            pull_request=pull_request,
            sent={item.path: item.size for item in self.sent},
            unchanged=tuple(item.path for item in self.files if item not in self.sent),
            deleted=self.deleted,
            card=card,
            card_kept=kept,
            creates=head is None and self.compared,
            dry_run=self.dry_run,
            compared=self.compared,
            others=tuple(sorted(set(self.there) - set(named) - set(self.deleted) - {CARD, ".gitattributes"})),
        )

    def _look(self) -> str | None:
        """Return the parent of the commit, None without a repository. Sets ``there``: path to file on the Hub.

        A dry run does without a Hub that cannot be reached.
        """
        try:
            return self._read_repository()
        except HubError as error:
            if not self.dry_run or not unreachable(error):
                raise
            self.compared, self.there = False, {}
            return None

    def _read_repository(self) -> str | None:
        with self.hub_errors(f"reading {self.name}"):
            try:
                info = self.api.repo_info(**self.repo, revision="main")
            except RepositoryNotFoundError:
                return None
            if self.options.get("private") and not info.private:
                raise HubError(
                    f"{self.name} exists and is public: make it private in its settings, or leave out --private"
                )
            head = info.sha
            if self.revision != "main":
                try:
                    head = self.api.repo_info(**self.repo, revision=self.revision).sha
                except RevisionNotFoundError:
                    self.branch_missing = True
            if not isinstance(head, str):
                raise HubError(f"the Hub's answer names no commit of {self.name}; try again")
            self.there = self._tree(head)
        return head

    def _tree(self, revision: str) -> dict[str, Any]:
        listed = self.api.list_repo_tree(**self.repo, recursive=True, revision=revision)
        return {str(item.path): item for item in listed if hasattr(item, "blob_id")}

    def _card_to_keep(self, head: str | None, card: str) -> str | None:
        """Return why the README.md on the Hub must not be replaced; None if it may be."""
        if CARD not in self.there or self.options.get("overwrite_card"):
            return None
        if Outgoing(CARD, card.encode()).equals(self.there[CARD]):
            return None
        try:
            token: str | Literal[False] = self.token or False
            path = fetch_file(self.repo_id, [CARD], repo_types=(self.repo_type,), revision=head, token=token)
            content = read_bytes(path)
            if not Outgoing(CARD, content).equals(self.there[CARD]):
                return "it could not be read completely"
            text = content.decode("utf-8")
        except (OSError, UnicodeDecodeError):  # a HubError is an OSError
            return "it could not be read"
        new = self.repo_type == "space" and is_of_new_space(text)
        return None if new or is_generated(text) else "it was written or changed by hand"

    def _send(self, head: str | None) -> tuple[str, str | None]:
        try:
            start = self._make_place(head)
            commit, pull_request = self._commit(start)
        except BaseException as error:
            note = self._take_back()
            if isinstance(error, HubError):
                raise type(error)(f"{error}; {note}") from None
            raise
        self._confirm(commit)
        return commit, pull_request

    def _make_place(self, head: str | None) -> str:
        """Create the repository and the branch if missing; return the commit to start from."""
        if head is None:
            private, made = self.options.get("private"), "repository"
            try:
                with self.hub_errors("creating the repository"):
                    self.api.create_repo(**self.repo, space_sdk=self.package.sdk, private=private, exist_ok=False)
            except HubError as error:
                # If it exists although the answer was lost, somebody else may own it: never delete it.
                if refused(error) or not self._exists():
                    raise
                made = UNSURE
            self.made, self.branch_missing = made, self.revision != "main"
            with self.hub_errors(f"reading the new {self.place}"):
                info = self.api.repo_info(**self.repo)
            if private and not info.private:
                raise HubError("the Hub made the new repository public: create a private one on the website")
            head = str(info.sha)
        if self.branch_missing:
            self.start, self.made = head, self.made or "branch"
            try:
                with self.hub_errors(f"creating the branch {sanitize(self.revision)}"):
                    self.api.create_branch(**self.repo, branch=self.revision, revision=head)
            except HubError as error:
                if refused(error) and self.made == "branch":
                    self.made = None
                raise
        return head

    def _exists(self) -> bool:
        """Return whether the repository exists. Raises HubError if this stays unknown."""
        self.uncertain = True
        with self.hub_errors(f"checking whether {self.name} was created"):
            found = self.api.repo_exists(**self.repo)
        self.uncertain = False
        return found

    def _commit(self, start: str) -> tuple[str, str | None]:
        before = self._pull_requests() if self.create_pr else {}
        message = self.options.get("commit_message") or self.package.title
        operations = [CommitOperationDelete(path_in_repo=path) for path in self.deleted]
        added = [CommitOperationAdd(item.path, item.source) for item in self.sent]
        doing = f"uploading the files to {self.name}"
        target: dict[str, Any] = {**self.repo, "revision": self.revision, "create_pr": self.create_pr}
        with self.hub_errors(doing):
            self.api.preupload_lfs_files(additions=added, free_memory=False, **target)
        # Until the answer arrives, the outcome is unknown.
        self.uncertain = True
        try:
            with self.hub_errors(doing):
                info = self.api.create_commit(
                    operations=[*added, *operations], commit_message=message, parent_commit=start, **target
                )
            return info.oid, info.pr_url
        except HubError as error:
            if refused(error):
                self.uncertain = False
                raise
            landed = self._landed(start, before)
            if landed is None:
                raise
            return landed

    def _landed(self, start: str, before: Mapping[str, str]) -> tuple[str, str | None] | None:
        """Look for a commit whose answer was lost. Raises HubError if it stays unknown whether it arrived."""
        with self.hub_errors(f"checking whether the commit to {self.name} arrived"):
            if self.create_pr:
                after = self._pull_requests()
                for ref in sorted(set(after) - set(before)):
                    if self._differs(after[ref]) is None:
                        return after[ref], f"{self.url}/discussions/{ref.rsplit('/', 1)[-1]}"
            else:
                head = self.api.repo_info(**self.repo, revision=self.revision).sha
                if head and head != start and self._differs(head) is None:
                    return head, None
        self.uncertain = False
        return None

    def _pull_requests(self) -> dict[str, str]:
        with self.hub_errors("listing the pull requests"):
            refs = self.api.list_repo_refs(**self.repo, include_pull_requests=True)
        return {ref.ref: ref.target_commit for ref in refs.pull_requests or []}

    def _differs(self, revision: str) -> str | None:
        """Return a difference between a revision and the package; None if there is none."""
        there = self._tree(revision)
        for item in self.files:
            if not item.equals(there.get(item.path)):
                return f"{item.path} {'differs from the local file' if item.path in there else 'is missing'}"
        left = sorted(set(self.deleted) & set(there))
        return f"{left[0]} is still there" if left else None

    def _confirm(self, commit: str) -> None:
        """Compare hashes and headers on the Hub with the local ones. Raises HubError."""
        where = f"{self.name} was written (commit {sanitize(commit)})"
        with self.hub_errors(f"{where}, but verifying it"):
            wrong = self._differs(commit)
            for item in self.sent:
                if wrong is None and item.path.endswith(".safetensors"):
                    header = self.api.parse_safetensors_file_metadata(**self.repo, filename=item.path, revision=commit)
                    if _header(header) != item.header():
                        wrong = f"the Hub serves {item.path} with another header"
        if wrong is not None:
            raise HubError(f"{where}, but {sanitize(wrong, 300)}: push it again, or revert to the commit before")

    def _take_back(self) -> str:
        """Delete what a failed upload created, unless somebody changed it; return a sentence for the message."""
        if self.uncertain:
            return "the state of the repository is unknown: look at its page, and push again"
        if self.made == UNSURE:
            return f"a {self.place} exists now, created by this push or by somebody else"
        try:
            with self.hub_errors("cleaning up"):
                if self.made == "repository":
                    if set(self._tree("main")) <= {".gitattributes", *([CARD] if self.package.sdk else [])}:
                        self.api.delete_repo(**self.repo)
                        return "the new repository was deleted"
                    return "the new repository was kept, because somebody has written to it"
                if self.made == "branch":
                    refs = self.api.list_repo_refs(**self.repo)
                    if (self.revision, self.start) in {(ref.name, ref.target_commit) for ref in refs.branches}:
                        self.api.delete_branch(**self.repo, branch=self.revision)
                        return "the new branch was deleted"
        except HubError:
            return f"the new, empty {self.made} could not be deleted: delete it, or push again"
        return "the repository was not changed"


def _header(remote: Any) -> dict[str, Any]:
    """Return a header that the client parsed in the form that the file has."""
    found: dict[str, Any] = {
        name: {"dtype": item.dtype, "shape": list(item.shape), "data_offsets": list(item.data_offsets)}
        for name, item in remote.tensors.items()
    }
    return found | ({"__metadata__": remote.metadata} if remote.metadata else {})
