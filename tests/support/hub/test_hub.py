"""The test Hub against the real clients, each in a process of its own."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import ROUTES, Hub, ask, client_env, leaks, run_cli, run_client

pytestmark = pytest.mark.slow

pytest_plugins = ["tests.support.hub.fixtures"]

PRELUDE = """
import json, os, warnings
warnings.simplefilter("ignore")
from huggingface_hub import CommitOperationAdd as Add, CommitOperationCopy as Copy, CommitOperationDelete as Delete
from huggingface_hub import HfApi
api, seen, BIG = HfApi(), {}, bytes(range(256)) * 1200

def attempt(work, *arguments, **named):
    try:
        return ["ok", str(work(*arguments, **named))]
    except Exception as error:
        answer = getattr(error, "response", None)
        status = answer.status_code if answer is not None else None
        return [type(error).__name__, status, str(error)]

def put(repo, path, data, **named):
    return api.create_commit(repo, [Add(path, data)], commit_message="put", **named)
"""
BIG = bytes(range(256)) * 1200


def client(code: str) -> str:
    """Client code after the prelude, printing what it saw at the end."""
    return PRELUDE + textwrap.dedent(code) + "\nprint(json.dumps(seen))\n"


def fetch(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """One raw request, with no client library in between."""
    asked = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_a_repository_lives_through_creation_commits_and_refs() -> None:
    code = """
    url = api.create_repo("x")
    seen["url"], seen["id"] = str(url), url.repo_id
    seen["again"] = attempt(api.create_repo, "me/x")
    seen["exist_ok"] = api.create_repo("me/x", exist_ok=True).repo_id
    seen["dataset of that name"] = api.create_repo("me/x", repo_type="dataset").repo_id
    first = api.create_commit("me/x", [
        Add("a.txt", b"one"), Add("gone.txt", b"-"), Add("old/1.bin", b"1"), Add("old/deep/2.txt", b"2"),
        Add("model.safetensors", BIG), Add("noise", bytes(range(128, 256))), Add("umlaut.txt", "ä".encode()),
    ], commit_message="first", commit_description="with words")
    tree = {f.path: f for f in api.list_repo_tree("me/x", recursive=True)}
    seen["lfs"] = sorted(path for path, f in tree.items() if getattr(f, "lfs", None))
    seen["sha256"], seen["tree"] = tree["model.safetensors"].lfs.sha256, sorted(tree)
    seen["flat"] = sorted(f.path for f in api.list_repo_tree("me/x"))
    seen["below"] = [f.path for f in api.list_repo_tree("me/x", "old", recursive=True)]
    seen["no folder"] = attempt(lambda: list(api.list_repo_tree("me/x", "nowhere")))
    seen["paths"] = [f.path for f in api.get_paths_info("me/x", ["old", "a.txt", "nowhere"])]
    second = api.create_commit("me/x", [
        Add("a.txt", b"two"), Delete("gone.txt"), Delete("old/"), Copy("model.safetensors", "copy.safetensors"),
    ], commit_message="second", parent_commit=first.oid)
    seen["missing"] = attempt(api.create_commit, "me/x", [Add("a.txt", b"three"), Delete("nowhere")],
                              commit_message="bad")
    seen["moved"] = attempt(put, "me/x", "a.txt", b"three", parent_commit=first.oid)
    seen["same"] = put("me/x", "a.txt", b"two").oid == second.oid
    pull = put("me/x", "a.txt", b"proposed", create_pr=True)
    seen["pull"] = [pull.pr_url, pull.pr_revision, pull.pr_num]
    put("me/x", "b.txt", b"more", revision="refs/pr/1")
    from_first = put("me/x", "c.txt", b"c", create_pr=True, parent_commit=first.oid)
    seen["from first"] = sorted(api.list_repo_files("me/x", revision=from_first.pr_revision))
    api.create_branch("me/x", branch="side", revision=first.oid)
    api.create_tag("me/x", tag="v1", revision=first.oid)
    seen["branch again"] = attempt(api.create_branch, "me/x", branch="side")
    put("me/x", "a.txt", b"side", revision="side")
    where = ["main", first.oid, "refs/pr/1", "side", "v1"]
    seen["contents"] = [open(api.hf_hub_download("me/x", "a.txt", revision=r)).read() for r in where]
    refs = api.list_repo_refs("me/x", include_pull_requests=True)
    seen["refs"] = [[r.name for r in kind] for kind in (refs.branches, refs.tags, refs.pull_requests)]
    api.delete_tag("me/x", tag="v1")
    seen["no revision"] = attempt(api.model_info, "me/x", revision="v1")
    seen["log"] = [c.title for c in api.list_repo_commits("me/x")]
    seen["heads"] = [first.oid, second.oid, api.model_info("me/x").sha]
    os.makedirs("up/sub")
    for name in ("README.md", "sub/model-00001-of-00001.safetensors"):
        open("up/" + name, "w").write("---\\nlicense: mit\\n---\\n" + name)
    api.upload_folder(repo_id="me/x", folder_path="up", delete_patterns=["*.safetensors", "noise"])
    seen["uploaded"] = sorted(api.list_repo_files("me/x"))
    seen["license"] = api.model_info("me/x").card_data.license
    card = "---\\nbase_model: {}\\n---\\n".format
    seen["bad yaml"] = attempt(put, "me/x", "README.md", b"---\\na: [\\n---\\n")
    seen["local base"] = attempt(put, "me/x", "README.md", card("/tmp/mine").encode())
    seen["good base"] = attempt(put, "me/x", "README.md", card("openai/clip").encode())[0]
    api.update_repo_settings("me/x", private=True)
    seen["private"] = api.model_info("me/x").private
    seen["exists"] = [api.file_exists("me/x", "a.txt"), api.file_exists("me/x", "z"), api.repo_exists("me/y")]
    api.delete_repo("me/x")
    seen["deleted"] = attempt(api.model_info, "me/x")[0]
    """
    with Hub(page_size=3) as hub:
        seen = ask(hub, client(code), token=hub.token)
        main = [r for r in hub.requests if r.route == "commit" and r.path.endswith("commit/main")]
        assert [r.status for r in main] == [200, 200, 404, 412, 200, 200]
        assert hub.count("preupload") == hub.count("preupload", status=200)
        assert not hub.errors
        assert ("dataset", "me/x") in hub.store.repos
        assert ("model", "me/x") not in hub.store.repos
    assert (seen["url"], seen["id"], seen["exist_ok"]) == (f"{hub.url}/me/x", "me/x", "me/x")
    assert seen["again"][1] == 409
    assert seen["lfs"] == ["model.safetensors", "noise", "old/1.bin"]
    assert seen["sha256"] == hashlib.sha256(BIG).hexdigest()
    files = {".gitattributes", "a.txt", "gone.txt", "model.safetensors", "noise", "umlaut.txt"}
    assert set(seen["tree"]) == files | {"old", "old/1.bin", "old/deep", "old/deep/2.txt"}
    assert set(seen["flat"]) == files | {"old"}
    assert seen["below"] == ["old/1.bin", "old/deep", "old/deep/2.txt"]
    assert seen["no folder"][0] == "RemoteEntryNotFoundError"
    assert seen["paths"] == ["old", "a.txt"]
    assert seen["missing"][:2] == ["RemoteEntryNotFoundError", 404]
    assert seen["moved"][:2] == ["HfHubHTTPError", 412]
    assert seen["same"] is True
    assert seen["pull"] == [f"{hub.url}/me/x/discussions/1", "refs/pr/1", 1]
    assert "gone.txt" in seen["from first"]
    assert "c.txt" in seen["from first"]
    assert seen["branch again"][1] == 409
    assert seen["contents"] == ["two", "one", "proposed", "side", "one"]
    assert seen["refs"] == [["main", "side"], ["v1"], ["refs/pr/1", "refs/pr/2"]]
    assert seen["no revision"][0] == "RevisionNotFoundError"
    assert seen["log"] == ["second", "first", "initial commit"]
    assert seen["heads"][2] == seen["heads"][1] != seen["heads"][0]
    assert seen["uploaded"] == [
        ".gitattributes",
        "README.md",
        "a.txt",
        "sub/model-00001-of-00001.safetensors",
        "umlaut.txt",
    ]
    assert seen["license"] == "mit"
    assert seen["bad yaml"][0] == seen["local base"][0] == "ValueError"
    assert "/tmp/mine" in seen["local base"][2]
    assert seen["good base"] == "ok"
    assert (seen["private"], seen["exists"]) == (True, [True, False, False])
    assert seen["deleted"] == "RepositoryNotFoundError"


def test_tokens_open_what_they_should_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    hub.seed("me/open", {"a.txt": "a", "w.safetensors": b"w"})
    hub.seed("me/closed", {"a.txt": "a", "w.safetensors": b"w"}, private=True)
    tokens = {"me": hub.token, "read": hub.read_token, "useless": hub.useless_token}
    tokens |= {"other": hub.other_token, "wrong": hub.wrong_token, "nobody": False}
    code = """
    tokens = json.load(open("tokens.json"))
    os.unlink("tokens.json")
    for who, token in tokens.items():
        seen[who] = {
            "whoami": attempt(api.whoami, token),
            "open": attempt(api.model_info, "me/open", token=token),
            "closed": attempt(api.model_info, "me/closed", token=token),
            "file": attempt(api.hf_hub_download, "me/closed", "w.safetensors", cache_dir="cache-" + who, token=token),
            "other type": attempt(api.dataset_info, "me/open", token=token),
            "create": attempt(api.create_repo, "me/" + who, private=True, token=token),
            "org": attempt(api.create_repo, "team/" + who, token=token),
            "nowhere": attempt(api.create_repo, "nowhere/" + who, token=token),
            "upload": attempt(put, "me/open", who + ".bin", b"1", token=token),
            "propose": attempt(put, "me/open", who + ".bin", b"2", token=token, create_pr=True),
        }
        seen[who] = {what: got[0] if got[0] == "ok" else got[:2] for what, got in seen[who].items()}
    """
    (tmp_path / "tokens.json").write_text(json.dumps(tokens))
    done = run_client(hub, client(code), home=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    gone = lambda status: ["RepositoryNotFoundError", status]  # noqa: E731
    no = lambda status: ["HfHubHTTPError", status]  # noqa: E731
    everything = dict.fromkeys(seen["me"], "ok")
    nothing = dict.fromkeys(("create", "org", "nowhere", "upload", "propose"), no(403))
    assert seen["me"] == everything | {"other type": gone(404), "nowhere": no(403)}
    assert seen["read"] == everything | {"other type": gone(404)} | nothing
    unseen = {"closed": gone(404), "file": gone(404), "other type": gone(404)}
    assert seen["useless"] == everything | unseen | nothing
    assert seen["other"] == everything | unseen | nothing | {"propose": "ok"}
    unknown = dict.fromkeys(nothing, no(401)) | dict.fromkeys(("upload", "propose"), gone(401))
    assert seen["wrong"] == dict.fromkeys(everything, no(401))
    assert seen["nobody"].pop("whoami")[0] == "ValueError"
    without = {"open": "ok", "closed": gone(401), "file": gone(401), "other type": gone(401)} | unknown
    assert seen["nobody"] == without
    assert hub.repo("me/me").private
    assert not hub.repo("team/me").private
    assert leaks(hub, done, tmp_path) == []
    (tmp_path / "careless.log").write_text(f"Authorization: Bearer {hub.read_token}")
    assert leaks(hub, done, tmp_path) == [str(tmp_path / "careless.log")]
    assert not any(token in repr(hub.requests) for token in hub.secrets())
    storage = [r for r in hub.requests if r.path.startswith("/-/")]
    assert storage
    assert not any(r.authorized for r in storage)
    assert {r.authorized for r in hub.requests if r.route == "info"} == {True, False}


def test_downloads_are_revisions_ranges_and_a_cache(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(8)
    old = hub.seed("me/x", {"a.txt": "old", "sub/big.bin": BIG, "model.safetensors": weights})
    new = hub.seed("me/x", {"a.txt": "new", "sub/big.bin": BIG[::-1]})
    hub.seed("me/x", {"a.txt": "proposed"}, branch="refs/pr/1")
    code = """
    from huggingface_hub import HfFileSystem, get_safetensors_metadata
    def content(folder):
        start = open(folder + "/sub/big.bin", "rb").read(3).hex()
        return [open(folder + "/a.txt").read(), start, os.path.basename(folder)]
    for revision in (None, OLD, "refs/pr/1"):
        seen[str(revision)] = content(api.snapshot_download("me/x", revision=revision))
    seen["local only"] = content(api.snapshot_download("me/x", local_files_only=True))
    api.snapshot_download("me/x", local_dir="here", allow_patterns=["*.txt"])
    seen["here"] = sorted(name for name in os.listdir("here") if name != ".cache")
    seen["tensors"] = list(get_safetensors_metadata("me/x").files_metadata["model.safetensors"].tensors)
    files = HfFileSystem()
    with files.open("me/x/sub/big.bin", "rb") as file:
        file.seek(1000)
        seen["middle"] = file.read(7).hex()
    seen["glob"] = files.glob("me/x/**/*.bin")
    seen["absent"] = attempt(api.hf_hub_download, "me/x", "z.txt")[0]
    seen["no such revision"] = attempt(api.snapshot_download, "me/x", revision="z")[0]
    """
    again = "seen['again'] = api.snapshot_download('me/x')"
    seen = ask(hub, client(code.replace("OLD", repr(old))), home=tmp_path)
    assert seen["None"] == seen["local only"] == ["new", "fffefd", new]
    assert seen[old] == ["old", "000102", old]
    assert seen["refs/pr/1"][:2] == ["proposed", "fffefd"]
    assert seen["here"] == ["a.txt"]
    assert seen["tensors"] == ["w"]
    assert seen["middle"] == BIG[::-1][1000:1007].hex()
    assert seen["glob"] == ["me/x/sub/big.bin"]
    assert (seen["absent"], seen["no such revision"]) == ("RemoteEntryNotFoundError", "RevisionNotFoundError")
    assert hub.count("download", path="me/x/sub/big.bin", status=200) == 2
    assert hub.count("download", status=206) >= 2
    hub.forget()
    assert Path(ask(hub, client(again), home=tmp_path)["again"]).name == new
    assert hub.count("download") == hub.count("redirect") == 0
    assert hub.count("info") == 1


def test_faults_of_an_upload_reach_the_client(hub: Hub) -> None:
    names = ("f401", "f403", "f404", "f409", "f412", "f429", "f500", "once", "cutonce", "cut", "flip", "late", "lost")
    before = {name: hub.seed(f"me/{name}", {"a.txt": "old"}) for name in (*names, "race", "third", "spoiled")}
    for status in (401, 403, 404, 409, 412):
        hub.fail("commit", status=status, path=f"me/f{status}")
    faults = {
        "f429": hub.fail("preupload", status=429, retry_after=7, path="me/f429"),
        "f500": hub.fail("commit", status=500, path="me/f500"),
        "once": hub.fail("lfs_batch", status=500, path="me/once", times=2),
        "cutonce": hub.fail("lfs_put", cut_upload=1000, path="me/cutonce/*"),
        "cut": hub.fail("lfs_put", cut_upload=1000, path="me/cut/*", times=None),
        "flip": hub.fail("lfs_put", corrupt=17, path="me/flip/*"),
        "late": hub.fail("commit", status=500, after=True, path="me/late"),
        "lost": hub.fail("commit", drop=True, after=True, path="me/lost"),
        "race": hub.fail("commit", meanwhile=lambda: hub.seed("me/race", {"b.txt": "theirs"}), path="me/race"),
        "third": hub.fail("commit", status=403, path="me/third", nth=3),
        "spoiled": hub.fail("commit", cut_download=5, path="me/spoiled"),
    }
    code = """
    for name in NAMES:
        naps.clear()
        named = {"parent_commit": api.model_info("me/race").sha} if name == "race" else {}
        files = [Add("a.txt", b"new"), Add("w.bin", BIG)]
        got = attempt(api.create_commit, "me/" + name, files, commit_message=name, **named)
        seen[name] = [*got[:2], [nap for nap in naps if nap >= 1]]
    seen["third"] = [attempt(put, "me/third", "a.txt", str(i).encode())[0] for i in range(4)]
    """
    code = code.replace("NAMES", repr((*names, "race", "spoiled")))
    seen: dict[str, Any] = ask(hub, client(code), token=hub.token)
    for status in (401, 403, 409, 412, 500):
        assert seen[f"f{status}"] == ["HfHubHTTPError", status, []]
    assert seen["f404"] == ["RepositoryNotFoundError", 404, []]
    assert (seen["f429"][0], seen["f429"][2]) == ("ok", [8.0])
    assert (seen["once"][0], seen["once"][2]) == ("ok", [1, 2])
    assert (seen["cutonce"][0], seen["cutonce"][2]) == ("ok", [1])
    assert (seen["cut"][0], seen["cut"][2]) == ("RuntimeError", [1, 2, 4, 8, 8])
    assert seen["flip"][0] == "RuntimeError"
    assert seen["late"][:2] == ["HfHubHTTPError", 500]
    assert seen["lost"][0] == seen["spoiled"][0] == "RemoteProtocolError"
    assert seen["race"][:2] == ["HfHubHTTPError", 412]
    assert seen["third"] == ["ok", "ok", "HfHubHTTPError", "ok"]
    struck = {name: fault.struck for name, fault in faults.items()}
    assert struck == dict.fromkeys(faults, 1) | {"once": 2, "cut": 6}
    assert hub.count("lfs_put", path="me/cut/*", status=0) == 6
    for name in names:
        repo = hub.repo(f"me/{name}")
        landed = name in ("f429", "once", "cutonce", "late", "lost")
        assert (repo.head() != before[name]) is landed, name
        expected = {"a.txt": b"new", "w.bin": BIG} if landed else {"a.txt": b"old"}
        assert repo.files() == expected, name
    assert hub.repo("me/race").files() == {"a.txt": b"old", "b.txt": b"theirs"}
    assert hub.repo("me/spoiled").files()["a.txt"] == b"new"


def test_faults_of_a_download_reach_the_client(hub: Hub) -> None:
    names = ("good", "f401", "f403", "f404", "f500", "private", "noentry", "busy", "down", "cut", "cutall", "flip")
    names += ("edit", "late", "stall")
    for name in names:
        hub.seed(f"me/{name}", {"big.bin": BIG, "a.txt": "text"})
    for status in (401, 403, 404, 500):
        hub.fail("head", status=status, path=f"me/f{status}/*")
    hub.fail("head", status=401, message="Invalid username or password.", path="me/private/*")
    hub.fail("head", status=404, code="EntryNotFound", path="me/noentry/*")
    hub.fail("download", status=429, retry_after=0, path="me/busy/*")
    hub.fail("head", status=500, path="me/down/*", times=None)
    hub.fail("download", cut_download=4096, path="me/cut/big.bin")
    endless = hub.fail("download", cut_download=0, path="me/cutall/big.bin", times=None)
    hub.fail("download", corrupt=5, path="me/flip/big.bin")
    hub.fail("tree", edit=lambda body: body.replace(b'"size": 307200', b'"size": 307201'), path="me/edit")
    gate = threading.Event()
    late = hub.fail("head", gate=gate, path="me/late/*")
    stall = hub.fail("download", gate=gate, stall=100_000, path="me/stall/*")
    hub.fail("info", status=500, path="me/good")
    code = """
    import hashlib
    from huggingface_hub import constants
    constants.DOWNLOAD_CHUNK_SIZE = 1024  # what is resumed after a cut starts at the last whole chunk
    for name in NAMES:
        naps.clear()
        got = attempt(api.hf_hub_download, "me/" + name, "big.bin", etag_timeout=0.3 if name == "late" else 10)
        seen[name] = [*got[:2], [nap for nap in naps if nap >= 1]]
        if got[0] == "ok":
            seen[name][1] = hashlib.sha256(open(got[1], "rb").read()).hexdigest()
    seen["told size"] = next(f.size for f in api.list_repo_tree("me/edit") if f.path == "big.bin")
    seen["info"] = attempt(api.model_info, "me/good")[:2]
    """
    seen: dict[str, Any] = ask(hub, client(code.replace("NAMES", repr(names))), env={"HF_HUB_DOWNLOAD_TIMEOUT": "3"})
    right = hashlib.sha256(BIG).hexdigest()
    assert seen["good"] == ["ok", right, []]
    assert seen["f401"][:2] == ["HfHubHTTPError", 401]
    assert seen["f403"][0] == seen["down"][0] == "LocalEntryNotFoundError"
    assert seen["f404"][:2] == ["RepositoryNotFoundError", 404]
    assert seen["private"][:2] == ["RepositoryNotFoundError", 401]
    assert seen["noentry"][:2] == ["RemoteEntryNotFoundError", 404]
    assert seen["busy"] == ["ok", right, [1.0]]
    assert seen["f500"] == seen["late"] == ["ok", right, []]
    assert seen["cut"] == seen["stall"] == ["ok", right, [1]]
    for name in ("cut", "stall"):
        got = [r.status for r in hub.requests if r.label == f"me/{name}/big.bin" and r.route == "download"]
        assert got == [200, 206], name
    assert seen["cutall"][0] == "RemoteProtocolError"
    assert endless.struck == 6
    assert seen["flip"][0] == "ok"
    assert seen["flip"][1] != right
    assert seen["edit"] == ["ok", right, []]
    assert seen["told size"] == len(BIG) + 1
    assert seen["info"] == ["HfHubHTTPError", 500]
    assert (late.struck, stall.struck, gate.is_set()) == (1, 1, False)


def test_a_slow_answer_waits_for_the_test(hub: Hub, tmp_path: Path) -> None:
    hub.seed("me/x", {"a.txt": "a"})
    gate = threading.Event()
    slow = hub.fail("info", gate=gate)
    script = tmp_path / "client.py"
    script.write_text("from huggingface_hub import HfApi\nprint(HfApi().model_info('me/x').sha)\n")
    command = [sys.executable, str(script)]
    running = subprocess.Popen(command, env=client_env(hub, tmp_path), stdout=subprocess.PIPE, text=True)
    try:
        assert slow.arrived.wait(60)
        assert hub.count("info") == 0
        moved = hub.seed("me/x", {"a.txt": "b"})
        gate.set()
        out, _ = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait(10)
    assert out.strip() == moved


def test_raw_answers_carry_what_the_protocol_says(hub: Hub) -> None:
    sha = hub.seed("me/x", {"a.txt": "0123456789", "w.bin": b"weights"})
    small, large = f"{hub.url}/me/x/resolve/main/a.txt", f"{hub.url}/me/x/resolve/main/w.bin"
    status, headers, body = fetch(small, "HEAD")
    assert (status, headers["Content-Length"], headers["X-Repo-Commit"], body) == (200, "10", sha, b"")
    assert headers["ETag"] == f'"{hashlib.sha1(b"blob 10" + bytes(1) + b"0123456789").hexdigest()}"'
    ranges = {"bytes=2-4": b"234", "bytes=7-": b"789", "bytes=-2": b"89", "bytes=8-99": b"89", "lines=1": None}
    for asked, expected in ranges.items():
        status, headers, body = fetch(small, Range=asked)
        assert (status, body) == ((206, expected) if expected else (200, b"0123456789")), asked
    status, headers, _ = fetch(small, Range="bytes=10-")
    assert (status, headers["Content-Range"]) == (416, "bytes */10")
    status, headers, body = fetch(large)
    assert (status, body) == (200, b"weights")
    with Hub(cdn=False) as plain:
        plain.seed("me/x", {"w.bin": b"weights"})
        status, headers, body = fetch(f"{plain.url}/me/x/resolve/main/w.bin", "HEAD")
        assert (headers["X-Linked-Size"], headers["X-Linked-Etag"]) == (
            "7",
            f'"{hashlib.sha256(b"weights").hexdigest()}"',
        )
    for path, code in (
        ("me/none/resolve/main/a", "RepoNotFound"),
        ("me/x/resolve/none/a", "RevisionNotFound"),
        ("me/x/resolve/main/none", "EntryNotFound"),
        ("datasets/me/x/resolve/main/a.txt", "RepoNotFound"),
        ("api/models/gpt2/tree/main", "RepoNotFound"),
    ):
        status, headers, _ = fetch(f"{hub.url}/{path}", Authorization=f"Bearer {hub.token}")
        assert (status, headers["X-Error-Code"]) == (404, code), path
    assert fetch(f"{hub.url}/nothing/here")[0] == 404
    assert fetch(f"{hub.url}/-/blob/00")[0] == 403
    assert fetch(f"{hub.url}/me/x/resolve/main/a.txt", Authorization="Bearer wrong")[0] == 401


def test_the_hub_is_repeatable_strict_about_faults_and_closes_cleanly() -> None:
    threads, heads = threading.active_count(), []
    for _ in range(2):
        with Hub() as hub:
            heads.append(hub.seed("me/x", {"a": "a"}))
            held = socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1])))
            assert fetch(f"{hub.url}/api/models/me/x")[0] == 200
            with pytest.raises(ValueError, match="no route"):
                hub.fail("comit", status=500)
            with pytest.raises(ValueError, match="no route"):
                hub.count("comit")
            with pytest.raises(ValueError, match="must do something"):
                hub.fail("commit")
            with pytest.raises(ValueError, match="not a failure"):
                hub.fail("commit", status=200)
            blocked = hub.fail("info", gate=threading.Event())
            pool = ThreadPoolExecutor(1)
            waiting = pool.submit(fetch, f"{hub.url}/api/models/me/x")
            assert blocked.arrived.wait(10)
        assert waiting.exception(10) is not None or waiting.result()[0] == 200
        pool.shutdown()
        held.settimeout(10)
        assert held.recv(1) == b""
        held.close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(hub.url.rsplit(":", 1)[1])), timeout=5)
        hub.heal()
    assert heads[0] == heads[1]
    assert threading.active_count() == threads
    assert len(set(ROUTES)) == len(ROUTES)


def test_a_mistake_of_the_hub_itself_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as hub:
        hub.seed("me/x", {"a": "a"})
        monkeypatch.setattr(hub.store, "find", lambda *_: 1 / 0)
        assert fetch(f"{hub.url}/api/models/me/x")[0] == 500
    assert "ZeroDivisionError" in hub.errors[0]


def test_a_client_sees_nothing_of_the_user(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_the_users_own")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    seen = ask(
        hub,
        client("""seen["token"], seen["home"] = __import__("huggingface_hub").get_token(), os.environ["HF_HOME"]"""),
    )
    assert seen["token"] is None
    assert not Path(seen["home"]).exists()
    done = run_client(hub, "raise SystemExit(3)")
    assert done.returncode == 3
    assert "decompose" in run_cli(hub, "--help").stdout
    with pytest.raises(AssertionError, match="boom"):
        ask(hub, "raise ValueError('boom')")
