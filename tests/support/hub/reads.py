"""The routes of the test Hub that read: who, what, where, and the bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.support.hub.calls import API, PAGE, REV, Call, Reply, answer, on, reader
from tests.support.hub.cards import metadata
from tests.support.hub.store import Blob, Commit, HubError, PullRequest, Repo

if TYPE_CHECKING:
    from tests.support.hub.core import Hub

SAFE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def stamp(dated: Commit | PullRequest) -> str:
    """The time of a commit or pull request, as the Hub writes it."""
    return dated.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@on("GET", r"/api/whoami-v2", "whoami")
def whoami(hub: Hub, call: Call) -> Reply:
    """Who a token belongs to."""
    if call.account is None:
        raise HubError(401, "Invalid username or password.")
    user, role = call.account.user, call.account.role
    orgs = [{"type": "org", "id": f"org-{o}", "name": o, "fullname": o} for o in sorted(hub.store.users[user])]
    token = {"displayName": "test", "role": role if role != "none" else "fineGrained"}
    auth = {"type": "access_token", "accessToken": {**token, "createdAt": "2026-01-01T00:00:00.000Z"}}
    return answer({"type": "user", "id": f"user-{user}", "name": user, "fullname": user, "orgs": orgs, "auth": auth})


def lfs_info(blob: Blob, name: str) -> dict[str, Any]:
    """The LFS part of a listing; ``name`` is what the route calls the sha256."""
    return {name: blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}


def sibling(path: str, blob: Blob, blobs: bool) -> dict[str, Any]:
    """A file in the info of a repository."""
    entry: dict[str, Any] = {"rfilename": path}
    if blobs:
        entry |= {"size": len(blob.data), "blobId": blob.oid}
        entry |= {"lfs": lfs_info(blob, "sha256")} if blob.lfs else {}
    return entry


@on("GET", rf"{API}(?:/revision/{REV})?", "info")
def info(hub: Hub, call: Call) -> Reply:
    """A repository at a revision."""
    repo = reader(hub, call)
    commit = repo.resolve(call.rev)
    card: dict[str, Any] = {}
    if "README.md" in commit.files:
        card = json.loads(json.dumps(metadata(commit.files["README.md"].data.decode(errors="replace"))[0], default=str))
    data: dict[str, Any] = {"_id": repo.id, "id": repo.id, "author": repo.namespace, "sha": commit.sha}
    data |= {"createdAt": "2026-01-01T00:00:00.000Z", "lastModified": stamp(commit), "private": repo.private}
    data |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": card.get("tags") or []}
    data |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    data |= {"modelId": repo.id} if repo.kind == "model" else {}
    data |= {"cardData": card} if card else {}
    data["siblings"] = [sibling(path, blob, call.flag("blobs")) for path, blob in commit.files.items()]
    data["usedStorage"] = sum(len(blob.data) for blob in commit.files.values())
    return answer(data, X_Repo_Commit=commit.sha)


@on("GET", rf"{API}/auth-check(?:/(?P<path>write))?", "info")
def auth_check(hub: Hub, call: Call) -> Reply:
    """Whether the caller may read or write."""
    repo = reader(hub, call)
    if call.path and not hub.store.may_write(call.account, repo.namespace):
        raise HubError(403, "You do not have write access to this repository.")
    return answer({})


def listing(repo: Repo, commit: Commit, paths: Iterable[str], expand: bool) -> list[dict[str, Any]]:
    """Files and folders as the tree shows them."""
    entries = []
    for path in paths:
        blob = commit.files.get(path)
        if blob is not None:
            entry: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
            entry |= {"lfs": lfs_info(blob, "oid")} if blob.lfs else {}
        else:
            inside = [(p, b.oid) for p, b in commit.files.items() if p.startswith(path + "/")]
            oid = hashlib.sha1(json.dumps(inside).encode()).hexdigest()
            entry = {"type": "directory", "oid": oid, "size": 0, "path": path}
        if expand:
            last = commit
            for older in repo.log(commit.sha):
                if older.files.get(path) != blob:
                    break
                last = older
            entry["lastCommit"] = {"id": last.sha, "title": last.title, "date": stamp(last)}
        entries.append(entry)
    return entries


def folders(paths: Iterable[str]) -> set[str]:
    """All folders that hold these files."""
    return {path[:i] for path in paths for i, letter in enumerate(path) if letter == "/"}


def page(hub: Hub, call: Call, target: str, items: list[Any]) -> Reply:
    """One page of a listing, with a link to the next."""
    start = int(call.query.get("cursor", ["0"])[0])
    end = start + hub.page_size
    reply = answer(items[start:end])
    if end < len(items):
        kept = "".join(f"&{name}={values[0]}" for name, values in call.query.items() if name != "cursor")
        reply.headers["Link"] = f'<{hub.url}{target}?cursor={end}{kept}>; rel="next"'
    return reply


@on("GET", rf"{API}/tree/{REV}(?:/(?P<path>.*))?", "tree")
def tree(hub: Hub, call: Call) -> Reply:
    """The files and folders of a revision, or of a folder in it."""
    repo = reader(hub, call)
    commit = repo.resolve(call.rev)
    everything = sorted({*commit.files, *folders(commit.files)})
    below = call.path.strip("/") + "/" if call.path else ""
    if below and below[:-1] not in folders(commit.files):
        raise HubError(404, f"{call.path} does not exist on {call.rev}", "EntryNotFound")
    shown = [path for path in everything if path.startswith(below)]
    if not call.flag("recursive"):
        shown = [path for path in shown if "/" not in path[len(below) :]]
    rest = "/" + call.path if call.path else ""
    target = f"/api/{repo.kind}s/{repo.id}/tree/{call.rev.replace('/', '%2F')}{rest}"
    return page(hub, call, target, listing(repo, commit, shown, call.flag("expand")))


@on("POST", rf"{API}/paths-info/{REV}", "paths_info")
def paths_info(hub: Hub, call: Call) -> Reply:
    """Some files and folders of a revision; those that do not exist are left out."""
    repo = reader(hub, call)
    commit = repo.resolve(call.rev)
    if "json" in call.headers.get("Content-Type", ""):
        sent = call.json()
        asked, expand = list(sent.get("paths", [])), bool(sent.get("expand"))
    else:
        form = parse_qs(call.body.decode())
        asked, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    known = {*commit.files, *folders(commit.files)}
    shown = [path for path in dict.fromkeys(p.strip("/") for p in asked) if path in known]
    return answer(listing(repo, commit, shown, expand))


@on("GET", rf"{API}/refs", "refs")
def refs(hub: Hub, call: Call) -> Reply:
    """Branches, tags and, where asked for, pull requests."""
    repo = reader(hub, call)
    heads = [name for name in repo.branches if not name.startswith("refs/")]
    data = {"branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": repo.branches[n]} for n in heads]}
    data |= {"converts": []}
    data["tags"] = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": sha} for n, sha in repo.tags.items()]
    if call.flag("include_prs"):
        names = [f"refs/pr/{num}" for num in repo.pulls]
        data["pullRequests"] = [{"name": n, "ref": n, "targetCommit": repo.branches[n]} for n in names]
    return answer(data)


@on("GET", rf"{API}/commits/{REV}", "commits")
def commits(hub: Hub, call: Call) -> Reply:
    """The history of a revision."""
    repo = reader(hub, call)
    items = [
        {"id": c.sha, "title": c.title, "message": c.message, "date": stamp(c), "authors": [{"user": c.author}]}
        for c in repo.log(call.rev)
    ]
    return page(hub, call, f"/api/{repo.kind}s/{repo.id}/commits/{call.rev.replace('/', '%2F')}", items)


def bytes_of(call: Call, data: bytes, etag: str) -> Reply:
    """The bytes of a file, or the range of them that was asked for."""
    headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = SAFE_RANGE.fullmatch(call.headers.get("Range", ""))
    if asked is None or asked.groups() == ("", ""):
        return Reply(200, data, headers)
    first, last = asked.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= end:
        return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
    return Reply(206, data[start:end], headers)


@on("HEAD", rf"{PAGE}/resolve/{REV}/(?P<path>.+)", "head")
@on("GET", rf"{PAGE}/resolve/{REV}/(?P<path>.+)", "download")
def resolve(hub: Hub, call: Call) -> Reply:
    """A file at a revision: small ones here, large ones by a redirect to the storage host."""
    commit, blob = reader(hub, call).entry(call.rev, call.path)
    reply = bytes_of(call, blob.data, blob.etag)
    if blob.lfs and hub.cdn:
        ticket = hub.issue(("blob", call.label, blob))
        reply = Reply(302, b"", {"Location": f"{hub.storage_url}/-/blob/{ticket}", "ETag": f'"{blob.etag}"'})
    name = call.path.rsplit("/", 1)[-1].encode("ascii", "replace").decode().replace('"', "'")
    reply.headers |= {"X-Repo-Commit": commit.sha, "Content-Disposition": f'inline; filename="{name}";'}
    if blob.lfs:
        reply.headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
    return reply


@on("HEAD", r"/-/blob/(?P<path>[0-9a-f]+)", "head")
@on("GET", r"/-/blob/(?P<path>[0-9a-f]+)", "download")
def blob(hub: Hub, call: Call) -> Reply:
    """A large file from the storage host, which knows no tokens, only signed addresses."""
    _, _, content = hub.redeem("blob", call.path)
    return bytes_of(call, content.data, content.etag)
