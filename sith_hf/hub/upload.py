"""Send files to a repository in one commit, and look whether they arrived.

Either everything arrives or the repository stays as it was: the commit is guarded by its parent, a repository or
branch that was made for it is taken back when it fails, and a commit whose answer was lost is recognised.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from sith_hf.core.escaping import sanitize
from sith_hf.errors import HubError, InputError
from sith_hf.hub.download import fetch_file, is_repo_id
from sith_hf.hub.errors import CLIENT, complaint, hub_errors, refused
from sith_hf.hub.package import (
    CARD,
    Outgoing,
    PushOptions,
    PushResult,
    UploadPackage,
    check_options,
    is_generated,
    same_bytes,
    with_checksum,
)

UNSURE = "perhaps"


def push(
    parcel: UploadPackage, repo_id: str, *, repo_type: str = "model", default_message: str, options: PushOptions
) -> PushResult:
    """Make the repository hold ``parcel``, in one commit, and look whether it does.

    Args:
        parcel: the files.
        repo_id: ``namespace/name``; a name alone goes into the namespace of the token's user.
        repo_type: ``model`` or ``dataset``.
        default_message: the title of the commit where the options give none.
        options: see :class:`PushOptions`.

    Raises:
        InputError: options that exclude each other, a repository that holds something else, or a file to send that
            cannot be read.
        HubError: the Hub refused, failed or could not be reached. The message says what stands there now.
    """
    check_options(options)
    try:
        return _Push(parcel, repo_id, repo_type, default_message, options).run()
    except HubError:
        raise
    except OSError as error:
        raise InputError(f"{error.filename}: the file could not be read ({error.strerror}); nothing was sent") from None


class _Push:
    """One push. ``made`` keeps what was made for it and must be taken back if it fails."""

    def __init__(self, parcel: UploadPackage, repo_id: str, repo_type: str, message: str, options: PushOptions) -> None:
        self.parcel, self.repo_id, self.repo_type, self.options = parcel, repo_id, repo_type, options
        self.message = options.get("commit_message") or message
        self.revision = options.get("revision") or "main"
        self.dry_run, self.create_pr = bool(options.get("dry_run")), bool(options.get("create_pr"))
        self.made: str | None = None
        self.card_there = ""
        self.start = ""
        self.branch_missing = self.uncertain = False

    @property
    def place(self) -> str:
        return f"{self.repo_type} repository {sanitize(self.repo_id)}"

    def hub_errors(self, doing: str) -> AbstractContextManager[None]:
        return hub_errors(doing, self.place, self.token)

    def run(self) -> PushResult:
        self._identify()
        head = self._look()
        if head is not None and not self.create_pr:
            self._refuse_clash(self.there)
        card = with_checksum(self.parcel.card(self.repo_id))
        kept = self._card_to_keep(head, card)
        named = {**self.parcel.files, **({} if kept else {CARD: card.encode()})}
        self.files = [Outgoing(path, source) for path, source in sorted(named.items())]
        self.deleted = tuple(sorted(path for path in self.there if self.parcel.is_stale(path)))
        self.sent = [item for item in self.files if not same_bytes(item, self.there.get(item.path))]
        only_card = [item.path for item in self.sent] == [CARD] and not self.deleted
        if only_card and self.parcel.described_by(self.card_there):
            self.sent = []  # the same files: the cards differ in what the machines that made them could run
        creates, commit, pull_request = head is None, head, None
        if (self.sent or self.deleted) and not self.dry_run:
            commit, pull_request = self._send(head)
        return PushResult(
            repo_id=self.repo_id,
            repo_type=self.repo_type,
            url=f"{constants.ENDPOINT}/{'' if self.repo_type == 'model' else self.repo_type + 's/'}{self.repo_id}",
            revision=self.revision,
            commit=None if self.dry_run or pull_request else commit,
            pull_request=pull_request,
            sent={item.path: item.size for item in self.sent},
            unchanged=tuple(item.path for item in self.files if item not in self.sent),
            deleted=self.deleted,
            card=card,
            card_kept=kept,
            creates=creates,
            dry_run=self.dry_run,
        )

    def _identify(self) -> None:
        """Find the token and the full name of the repository."""
        self.token = self.options.get("token")
        with self.hub_errors("looking for a token"):
            self.token = self.token or get_token()
        if not self.token and not self.dry_run:
            raise HubError(
                "pushing needs a token with write access: log in with `hf auth login`, set HF_TOKEN, or pass --token"
            )
        if self.token and not re.fullmatch(r"[!-~]+", self.token):
            raise HubError(
                "the token holds characters that no token has: copy it again, or log in with `hf auth login`"
            )
        self.api = HfApi(token=self.token or False)
        if not is_repo_id(self.repo_id):
            raise InputError(f"{sanitize(self.repo_id)!r} cannot be the id of a repository: write namespace/name")
        if "/" not in self.repo_id and self.token:
            with self.hub_errors("asking the Hub whose the token is"):
                self.repo_id = f"{self.api.whoami()['name']}/{self.repo_id}"

    def _look(self) -> str | None:
        """The head that the commit goes upon, None without a repository. Sets ``there``: path to file on the Hub."""
        self.there: dict[str, Any] = {}
        with self.hub_errors(f"looking at {sanitize(self.repo_id)}"):
            try:
                info = self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision="main")
            except RepositoryNotFoundError:
                return None
            if self.options.get("private") and not info.private:
                raise HubError(
                    f"{sanitize(self.repo_id)} is there already and is public: make it private in its settings, "
                    "or leave out --private"
                )
            head = info.sha
            if self.revision != "main":
                try:
                    info = self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=self.revision)
                    head = info.sha
                except RevisionNotFoundError:
                    self.branch_missing = True
            if not isinstance(head, str):
                raise TypeError("the answer has no commit")
            self.there = self._tree(head)
        return head

    def _tree(self, revision: str) -> dict[str, Any]:
        listed = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type=self.repo_type)
        return {item.path: item for item in listed if hasattr(item, "blob_id")}

    def _refuse_clash(self, names: Collection[str]) -> None:
        reason = self.parcel.clash(names)
        if reason is not None:
            raise InputError(f"{sanitize(self.repo_id)} {reason}; nothing was sent")

    def _card_to_keep(self, head: str | None, card: str) -> str | None:
        """Why the README.md on the Hub is not to be replaced."""
        if CARD not in self.there or self.options.get("overwrite_card"):
            return None
        if same_bytes(Outgoing(CARD, card.encode()), self.there[CARD]):
            return None
        try:
            path = fetch_file(self.repo_id, [CARD], repo_types=(self.repo_type,), revision=head, token=self.token)
            content = path.read_bytes()
            if not same_bytes(Outgoing(CARD, content), self.there[CARD]):
                return "it could not be read whole"
            text = content.decode("utf-8")
        except CLIENT:
            return "it could not be read"
        if not is_generated(text):
            return "somebody wrote or changed it by hand"
        self.card_there = text
        return None

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
        """Make the repository and branch where they are missing; the commit to start from."""
        if head is None:
            private, made = self.options.get("private"), "repository"
            try:
                self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private, exist_ok=False)
            except CLIENT as error:
                told_so = complaint(error, "making the repository", self.place, self.token)
                # There although the answer was lost, it may be ours or somebody else's: it is never deleted.
                if refused(error) or not self._exists():
                    raise told_so from None
                made = UNSURE
            self.made, self.branch_missing = made, self.revision != "main"
            with self.hub_errors(f"looking at the new {self.place}"):
                info = self.api.repo_info(self.repo_id, repo_type=self.repo_type)
                if private and not info.private:
                    raise HubError("the new repository is not private")
                head = str(info.sha)
        if self.branch_missing:
            self.start, self.made = head, self.made or "branch"
            try:
                self.api.create_branch(self.repo_id, branch=self.revision, revision=head, repo_type=self.repo_type)
            except CLIENT as error:
                if refused(error) and self.made == "branch":
                    self.made = None
                raise complaint(error, f"making the branch {sanitize(self.revision)}", self.place, self.token) from None
        return head

    def _exists(self) -> bool:
        """Whether the repository is there. Raises HubError where that cannot be found out."""
        self.uncertain = True
        with self.hub_errors(f"looking whether {sanitize(self.repo_id)} was made"):
            found = self.api.repo_exists(self.repo_id, repo_type=self.repo_type)
        self.uncertain = False
        return found

    def _commit(self, start: str) -> tuple[str, str | None]:
        before = self._pull_requests() if self.create_pr else {}
        operations = [CommitOperationDelete(path_in_repo=path) for path in self.deleted]
        added = [CommitOperationAdd(item.path, item.source) for item in self.sent]
        doing = f"sending the files to {sanitize(self.repo_id)}"
        with self.hub_errors(doing):
            self.api.preupload_lfs_files(
                self.repo_id,
                added,
                repo_type=self.repo_type,
                revision=self.revision,
                create_pr=self.create_pr,
                free_memory=False,
            )
        # Until the answer is here, nobody knows.
        self.uncertain = True
        try:
            info = self.api.create_commit(
                self.repo_id,
                [*added, *operations],
                commit_message=self.message,
                repo_type=self.repo_type,
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=start,
            )
            return info.oid, info.pr_url
        except CLIENT as error:
            told_so = complaint(error, doing, self.place, self.token)
            if refused(error):
                self.uncertain = False
                raise told_so from None
            landed = self._landed(start, before)
            if landed is None:
                raise told_so from None
            return landed

    def _landed(self, start: str, before: Mapping[str, str]) -> tuple[str, str | None] | None:
        """Look whether the commit arrived though its answer did not. Raises HubError where that stays unknown."""
        with self.hub_errors(
            f"the connection was lost while {sanitize(self.repo_id)} was written, and looking what became of it"
        ):
            if self.create_pr:
                after = self._pull_requests()
                for ref in sorted(set(after) - set(before)):
                    if self._differs(after[ref]) is None:
                        number = ref.rsplit("/", 1)[-1]
                        page = "" if self.repo_type == "model" else f"{self.repo_type}s/"
                        return after[ref], f"{constants.ENDPOINT}/{page}{self.repo_id}/discussions/{number}"
            else:
                info = self.api.repo_info(self.repo_id, repo_type=self.repo_type, revision=self.revision)
                if info.sha and info.sha != start and self._differs(info.sha) is None:
                    return info.sha, None
        self.uncertain = False
        return None

    def _pull_requests(self) -> dict[str, str]:
        with self.hub_errors("looking at the pull requests"):
            refs = self.api.list_repo_refs(self.repo_id, repo_type=self.repo_type, include_pull_requests=True)
            return {ref.ref: ref.target_commit for ref in refs.pull_requests or []}

    def _differs(self, revision: str) -> str | None:
        """What a revision lacks of what it should hold; None where it has everything."""
        there = self._tree(revision)
        for item in self.files:
            if not same_bytes(item, there.get(item.path)):
                return f"{item.path} is {'other than what was sent' if item.path in there else 'not there'}"
        left = sorted(set(self.deleted) & set(there))
        return f"{left[0]} is still there" if left else None

    def _confirm(self, commit: str) -> None:
        """Compare hashes and headers on the Hub with the local ones. Raises HubError."""
        where = f"{sanitize(self.repo_id)} was written (commit {sanitize(commit)})"
        with self.hub_errors(f"{where}, but looking whether everything arrived"):
            wrong = self._differs(commit)
            for item in self.sent:
                if wrong is None and item.path.endswith(".safetensors"):
                    header = self.api.parse_safetensors_file_metadata(
                        self.repo_id, item.path, repo_type=self.repo_type, revision=commit
                    )
                    if _header(header) != item.header():
                        wrong = f"the Hub serves {item.path} with another header"
        if wrong is not None:
            raise HubError(f"{where}, but {sanitize(wrong, 300)}: push it again, or go back to the commit before")

    def _take_back(self) -> str:
        """Remove what was made for a push that failed, where it is as it was made; what to say of it."""
        if self.uncertain:
            return "it is not known what stands there now: look at its page, and push again"
        if self.made == UNSURE:
            return f"a {self.place} is there now, made by this push or by somebody else"
        try:
            if self.made == "repository":
                if set(self._tree("main")) <= {".gitattributes"}:
                    self.api.delete_repo(self.repo_id, repo_type=self.repo_type)
                    return "the repository made for it was taken back"
                return "the repository made for it was left, as somebody has written to it"
            if self.made == "branch":
                refs = self.api.list_repo_refs(self.repo_id, repo_type=self.repo_type)
                if (self.revision, self.start) in {(ref.name, ref.target_commit) for ref in refs.branches}:
                    self.api.delete_branch(self.repo_id, branch=self.revision, repo_type=self.repo_type)
                    return "the branch made for it was taken back"
        except CLIENT:
            return f"the empty {self.made} made for it could not be taken back: delete it, or push again"
        return "nothing was changed there"


def _header(remote: Any) -> dict[str, Any]:
    """A safetensors header as the client read it, in the form that the file has."""
    found: dict[str, Any] = {
        name: {"dtype": item.dtype, "shape": list(item.shape), "data_offsets": list(item.data_offsets)}
        for name, item in remote.tensors.items()
    }
    return found | ({"__metadata__": remote.metadata} if remote.metadata else {})
