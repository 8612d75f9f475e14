"""The routes of the test Hub that change something: repositories, uploads, commits, refs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.support.hub.calls import API, PAGE, REV, Call, Reply, answer, on, reader
from tests.support.hub.cards import validate
from tests.support.hub.reads import stamp
from tests.support.hub.store import Account, Blob, HubError, PullRequest, Repo

if TYPE_CHECKING:
    from tests.support.hub.core import Hub

LFS = {"Content-Type": "application/vnd.git-lfs+json"}


def known(call: Call) -> Account:
    """The account of the caller; anonymous writes are refused."""
    if call.account is None:
        raise HubError(401, "Invalid username or password.")
    return call.account


def writer(hub: Hub, call: Call, pull_request: bool = False) -> Repo:
    """The repository of a call, if the caller may write to it (or at least propose a change)."""
    account = known(call)
    repo = reader(hub, call)
    if hub.store.may_write(account, repo.namespace) or (pull_request and account.role == "write"):
        return repo
    if account.role != "write":
        raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
    raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")


def named(hub: Hub, call: Call) -> tuple[str, str, str]:
    """The type, namespace and name in the body of a request about a repository, if the caller may own it."""
    account, data = known(call), call.json()
    kind = data.get("type") or "model"
    namespace = data.get("organization") or account.user
    if not hub.store.may_write(account, namespace):
        raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
    return kind, namespace, str(data.get("name"))


@on("POST", r"/api/repos/create", "create")
def create(hub: Hub, call: Call) -> Reply:
    """A new repository."""
    kind, namespace, name = named(hub, call)
    repo = hub.store.repos.get((kind, f"{namespace}/{name}"))
    if repo is not None:
        raise HubError(409, f"You already created this {kind} repo", url=f"{hub.url}/{repo.page}", id=repo.id)
    data = call.json()
    private = data.get("visibility") == "private" or data.get("private") is True
    repo = hub.store.create(kind, f"{namespace}/{name}", private, known(call).user, data.get("sdk"))
    return answer({"url": f"{hub.url}/{repo.page}", "name": repo.id, "id": repo.id})


@on("DELETE", r"/api/repos/delete", "delete_repo")
def delete_repo(hub: Hub, call: Call) -> Reply:
    """Delete a repository."""
    kind, namespace, name = named(hub, call)
    hub.store.find(kind, f"{namespace}/{name}", call.account)
    del hub.store.repos[kind, f"{namespace}/{name}"]
    return answer({})


@on("PUT", rf"{API}/settings", "settings")
def settings(hub: Hub, call: Call) -> Reply:
    """Public or private."""
    repo, data = writer(hub, call), call.json()
    repo.private = data.get("visibility", "private" if data.get("private", repo.private) else "public") == "private"
    return answer({"private": repo.private})


@on("POST", r"/api/validate-yaml", "validate_yaml")
def validate_yaml(hub: Hub, call: Call) -> Reply:
    """Whether a card's metadata would be accepted."""
    errors, warnings = validate(str(call.json().get("content", "")))
    data = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
    return answer(data, 400 if errors else 200)


@on("POST", rf"{API}/preupload/{REV}", "preupload")
def preupload(hub: Hub, call: Call) -> Reply:
    """How each file wants to be sent, and what is there already."""
    repo = writer(hub, call, call.flag("create_pr") or call.rev.startswith("refs/pr/"))
    present = repo.resolve(call.rev).files
    files = []
    for asked in call.json()["files"]:
        path = asked["path"]
        lfs = hub.store.is_lfs(path, asked["size"], base64.b64decode(asked["sample"]))
        entry = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        files.append(entry | ({"oid": present[path].etag} if path in present else {}))
    return answer({"files": files})


@on("POST", rf"{PAGE}\.git/info/lfs/objects/batch", "lfs_batch")
def lfs_batch(hub: Hub, call: Call) -> Reply:
    """Where to send large files; no action for those that are there."""
    repo = writer(hub, call, pull_request=True)
    objects = []
    for asked in call.json()["objects"]:
        oid, size = str(asked["oid"]), int(asked["size"])
        entry: dict[str, Any] = {"oid": oid, "size": size}
        if oid not in repo.lfs:
            ticket = hub.issue(("upload", f"{repo.id}/{oid}", (repo, oid, size)))
            upload = {"href": f"{hub.storage_url}/-/upload/{ticket}", "header": {}}
            verify = {"href": f"{hub.url}/{repo.page}.git/info/lfs/objects/verify"}
            entry["actions"] = {"upload": upload, "verify": verify}
        objects.append(entry)
    return Reply(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), dict(LFS))


@on("PUT", r"/-/upload/(?P<path>[0-9a-f]+)", "lfs_put")
def lfs_put(hub: Hub, call: Call) -> Reply:
    """The bytes of a large file, for the storage host; whether they are right is found out by ``verify``."""
    _, _, (repo, oid, size) = hub.redeem("upload", call.path)
    if len(call.body) != size:
        raise HubError(400, f"expected {size} bytes, got {len(call.body)}")
    hub.uploads[repo.kind, repo.id, oid] = call.body
    return Reply(200, b"", {"ETag": f'"{hashlib.md5(call.body).hexdigest()}"'})


@on("POST", rf"{PAGE}\.git/info/lfs/objects/verify", "lfs_verify")
def lfs_verify(hub: Hub, call: Call) -> Reply:
    """Whether a large file arrived whole; only then can a commit refer to it."""
    repo = writer(hub, call, pull_request=True)
    asked = call.json()
    oid = str(asked["oid"])
    if oid in repo.lfs:
        return answer({"message": "Authorized"})
    content = hub.uploads.pop((repo.kind, repo.id, oid), None)
    if content is None:
        raise HubError(404, f"object {oid} was not uploaded")
    if len(content) != asked["size"] or hashlib.sha256(content).hexdigest() != oid:
        raise HubError(400, f"object {oid} does not have the announced size and sha256")
    repo.lfs[oid] = content
    return answer({"message": "Authorized"})


def safe(path: object) -> str:
    """A path that stays inside the repository."""
    if not isinstance(path, str) or not path or any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise HubError(400, f"Invalid path in the commit: {path!r}")
    return path


def apply(repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """One line of a commit."""
    path = safe(str(value.get("path")).rstrip("/") if key == "deletedFolder" else value.get("path"))
    if key == "file":
        try:
            content = base64.b64decode(value["content"], validate=True)
        except (binascii.Error, KeyError) as error:
            raise HubError(400, f"the content of {path} is not base64") from error
        files[path] = Blob(content)
    elif key == "lfsFile":
        oid = str(value.get("oid"))
        if oid not in repo.lfs:
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path} ({oid})")
        files[path] = Blob(repo.lfs[oid], lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        below = path + "/"
        gone = [p for p in files if p == path] if key == "deletedFile" else [p for p in files if p.startswith(below)]
        if not gone:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for p in gone:
            del files[p]
    else:
        raise HubError(400, f"unknown line {key!r} in the commit")


@on("POST", rf"{API}/commit/{REV}", "commit")
def commit(hub: Hub, call: Call) -> Reply:
    """All lines of a commit, or none."""
    create_pr = call.flag("create_pr")
    repo = writer(hub, call, create_pr or call.rev.startswith("refs/pr/"))
    try:
        lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
        headers = [line["value"] for line in lines if line["key"] == "header"]
        steps = [(line["key"], line["value"]) for line in lines if line["key"] != "header"]
    except (ValueError, KeyError, TypeError) as error:
        raise HubError(400, f"the commit is not ndjson: {error}") from error
    if len(headers) != 1 or not headers[0].get("summary"):
        raise HubError(400, "a commit needs one header with a summary")
    base = repo.resolve(call.rev)
    if not create_pr and call.rev not in repo.branches:
        raise HubError(400, f"{call.rev} is not a branch")
    parent = headers[0].get("parentCommit")
    if parent and not base.sha.startswith(parent):
        if not create_pr:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        base = repo.resolve(next((sha for sha in repo.commits if sha.startswith(parent)), parent))
    files = dict(base.files)
    for key, value in steps:
        apply(repo, files, key, value)
    if files.get("README.md") != base.files.get("README.md") and "README.md" in files:
        errors, _ = validate(files["README.md"].data.decode(errors="replace"))
        if errors:
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))
    title, author = headers[0]["summary"], known(call).user
    num = len(repo.pulls) + 1
    branch = f"refs/pr/{num}" if create_pr else call.rev
    made = repo.add_commit(branch, base.sha, title, headers[0].get("description", ""), author, files)
    url = f"{hub.url}/{repo.page}"
    data = {"success": True, "commitOid": made.sha, "commitUrl": f"{url}/commit/{made.sha}", "hookOutput": ""}
    if create_pr:
        repo.pulls[num] = PullRequest(num, title, author, made.date)
        data["pullRequestUrl"] = f"{url}/discussions/{num}"
    return answer(data)


def move_ref(refs: dict[str, str], name: str, sha: str, what: str) -> Reply:
    """A new branch or tag."""
    if not re.fullmatch(r"[\w./-]+", name) or name.startswith(("refs/", "-", "/")):
        raise HubError(400, f"Invalid {what} name: {name}")
    if name in refs:
        raise HubError(409, f"Reference already exists: {name}")
    refs[name] = sha
    return answer({})


def drop_ref(refs: dict[str, str], name: str) -> Reply:
    """Delete a branch or tag."""
    if name == "main" or name not in refs:
        raise HubError(403 if name == "main" else 404, f"Invalid rev id: {name}", "RevisionNotFound")
    del refs[name]
    return answer({})


def _ref_route(method: str, pattern: str, name: str, work: Callable[[Repo, Call], Reply]) -> None:
    """A route for those who may write."""
    on(method, pattern, name)(lambda hub, call: work(writer(hub, call), call))


def _new_branch(repo: Repo, call: Call) -> Reply:
    start = repo.resolve(str(call.json().get("startingPoint") or "main"))
    return move_ref(repo.branches, call.rev, start.sha, "branch")


def _new_tag(repo: Repo, call: Call) -> Reply:
    return move_ref(repo.tags, str(call.json().get("tag")), repo.resolve(call.rev).sha, "tag")


_ref_route("POST", rf"{API}/branch/{REV}", "branch", _new_branch)
_ref_route("DELETE", rf"{API}/branch/{REV}", "branch", lambda repo, call: drop_ref(repo.branches, call.rev))
_ref_route("POST", rf"{API}/tag/{REV}", "tag", _new_tag)
_ref_route("DELETE", rf"{API}/tag/{REV}", "tag", lambda repo, call: drop_ref(repo.tags, call.rev))


@on("GET", rf"{API}/discussions", "discussions")
def discussions(hub: Hub, call: Call) -> Reply:
    """The open pull requests."""
    repo = reader(hub, call)
    base = {"status": "open", "isPullRequest": True, "repo": {"name": repo.id, "type": repo.kind}}
    items = [
        {**base, "num": p.num, "title": p.title, "author": {"name": p.author}, "createdAt": stamp(p)}
        for p in repo.pulls.values()
    ]
    return answer({"discussions": items, "count": len(items), "start": 0})
