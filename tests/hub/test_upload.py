"""Uploads to a faulty Hub: the repository has its old state or the new one, and one sentence names it."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading

import pytest

from tests.support.pushing import SENT, outcome, refused, state

pytest_plugins = ["tests.support.push_fixtures"]


@pytest.fixture
def hub(place):
    place.heal()
    place.forget()
    return place


# ---------------------------------------------------------------- what goes wrong on the way

FAULTS = {
    **{str(status): {"status": status} for status in (403, 404, 500)},
    "drop": {"drop": True},
    "cut upload": {"cut_upload": 10},
    "cut download": {"cut_download": 5},
    "corrupt": {"corrupt": 3},
}
# A push goes to an existing repository, to a new one, to a new branch, or into a pull request.
WAYS = {"again": {}, "new": {}, "branch": {"revision": "next"}, "pull": {"create_pr": True}}
# A new repository has the most to clean up; the ways differ where the old state is read or the new one is written.
STEPS = {
    "info": ("again", "new"), "whoami": ("new",), "validate_yaml": ("new",), "create": ("new",), "branch": ("branch",),
    "tree": ("again", "new"), "preupload": ("new",), "lfs_batch": ("new",), "lfs_put": ("again", "new"),
    "lfs_verify": ("new",), "commit": tuple(WAYS), "refs": ("pull",), "redirect": ("again",),
    "download": ("again", "new"),
}  # fmt: skip
CASES = [(step, way) for step, ways in STEPS.items() for way in ways]


@pytest.mark.parametrize(("step", "way"), CASES)
def test_every_fault_at_every_step_leaves_the_old_or_the_new_state(hub, push, made, step, way):
    weights = (made.edited / "model.safetensors").read_bytes()
    struck = 0
    for kind, fault in FAULTS.items():
        # A lasting fault also hinders cleaning up; without anything to clean up it makes no difference.
        for times in (1, None) if way == "new" else (None,):
            # The token's user alone is asked for where no namespace is given.
            name = f"{'' if step == 'whoami' else 'me/'}x-{step}-{way}-{kind.replace(' ', '')}-{times}"
            repo = name if "/" in name else f"me/{name}"
            if way != "new":
                old = {
                    "model.safetensors": b"old",
                    "model-1.safetensors": b"stale",
                    "sith/edit_spec.safetensors": b"old",
                }
                hub.seed(repo, old)
            before = state(hub, repo)
            trouble = hub.fail(step, times=times, **fault)
            message, kinds = outcome(lambda name=name: push(name, **WAYS[way]))
            assert kinds is None or "HubError" in kinds
            hub.heal()
            struck += trouble.struck
            after, where = state(hub, repo), f"{repo}: {message}"
            revision = {"branch": "next", "pull": "refs/pr/1"}.get(way, "main")
            files = {} if after is None or revision not in after[0] else hub.repo(repo).files(revision)
            whole = set(files) == SENT and files["model.safetensors"] == weights
            if message is None or "was written (commit" in message:
                assert whole, where
            elif "is unknown" in message:
                assert whole or after in (before, None) or set(hub.repo(repo).files()) == set(), where
            elif after != before:
                # What was made for the push could not be taken back, because the fault lasted.
                assert times is None, where
                assert "could not be deleted" in message, where
                assert set(files) <= set(hub.repo(repo).files()), where
            if before is not None and way != "again":
                assert after[0]["main"] == before[0]["main"], where
    assert struck > 0


def test_a_commit_whose_answer_was_lost_is_recognised(hub, push, made):
    push("me/lost", made.other)
    for number, (fault, options) in enumerate(
        [
            ({"drop": True, "after": True}, {}),
            ({"status": 500, "after": True}, {}),
            ({"cut_download": 4}, {}),
            ({"drop": True, "after": True}, {"create_pr": True}),
            ({"drop": True, "after": True}, {"revision": "side"}),
        ]
    ):
        hub.heal()
        hub.fail("commit", **fault)
        folder = made.edited if number in (0, 2) else made.other
        commits = len(hub.repo("me/lost").commits)
        done = push("me/lost", folder, **options)
        assert len(hub.repo("me/lost").commits) == commits + 1
        if options.get("create_pr"):
            assert done["pull_request"] == f"{hub.url}/me/lost/discussions/1"
        else:
            assert done["commit"] == hub.repo("me/lost").head(options.get("revision", "main"))
    hub.fail("create", drop=True, after=True)
    assert push("me/lost-at-birth")["creates"]
    assert set(hub.repo("me/lost-at-birth").files()) == SENT


def test_an_unknown_outcome_is_reported_as_unknown(hub, push, made):
    push("me/unknown", made.other)
    hub.fail("commit", drop=True, after=True)
    hub.fail("info", status=500, nth=2, times=None, path="me/unknown")
    assert "is unknown" in refused(lambda: push("me/unknown"))
    hub.heal()
    assert push("me/unknown")["nothing_to_do"]  # it had landed, and the next push finds out


def test_a_branch_that_moved_is_not_overwritten(hub, push, made):
    push("me/moved", made.other)
    hub.fail("commit", meanwhile=lambda: hub.seed("me/moved", {"theirs.txt": "theirs"}), path="me/moved")
    message = refused(lambda: push("me/moved"))
    assert "changed meanwhile" in message
    assert hub.repo("me/moved").files()["theirs.txt"] == b"theirs"
    assert hub.repo("me/moved").files()["model.safetensors"] == (made.other / "model.safetensors").read_bytes()
    assert "theirs.txt" in hub.repo("me/moved").files()
    assert push("me/moved")["sent"]


def test_what_somebody_else_made_meanwhile_is_not_taken_back(hub, push, made):
    hub.fail("create", meanwhile=lambda: hub.seed("me/raced", {"theirs.txt": "theirs"}))
    assert "conflict" in refused(lambda: push("me/raced"))
    assert hub.repo("me/raced").files() == {"theirs.txt": b"theirs"}
    hub.heal()
    hub.fail("commit", status=403, meanwhile=lambda: hub.seed("me/shared", {"theirs.txt": "theirs"}), path="me/shared")
    assert "somebody has written" in refused(lambda: push("me/shared"))
    assert hub.repo("me/shared").files() == {"theirs.txt": b"theirs"}


def test_weights_that_arrive_otherwise_are_noticed(hub, push, made):
    hub.fail("download", path="me/spoilt/*model.safetensors", edit=lambda body: body.replace(b'"F32"', b'"F16"', 1))
    message = refused(lambda: push("me/spoilt"))
    assert "was written (commit" in message
    assert "header" in message
    hub.heal()
    push("me/spoilt", made.other)
    size = (made.edited / "model.safetensors").stat().st_size
    sha = hashlib.sha256((made.edited / "model.safetensors").read_bytes()).hexdigest()
    hub.fail("tree", nth=2, path="me/spoilt", edit=lambda body: body.replace(sha.encode(), b"0" * 64))
    message = refused(lambda: push("me/spoilt"))
    assert "model.safetensors differs from the local file" in message
    assert size


def test_a_slow_hub_is_waited_for(hub, push):
    for route in ("info", "preupload", "lfs_put", "commit"):
        gate = threading.Event()
        fault = hub.fail(route, gate=gate)
        threading.Thread(target=lambda f=fault, g=gate: f.arrived.wait(30) and g.set()).start()
    assert push("me/slow")["commit"] == hub.repo("me/slow").head()


def test_a_file_that_vanishes_or_cannot_be_read(hub, push, made, tmp_path):
    folder = shutil.copytree(made.edited, tmp_path / "edited")
    (folder / "notes.txt").symlink_to(tmp_path / "nowhere")
    assert "notes.txt" not in push("me/dangling", folder)["sent"]
    if os.getuid() != 0:
        (folder / "closed.txt").write_text("x")
        (folder / "closed.txt").chmod(0)
        message = refused(lambda: push("me/closed", folder))
        assert "closed.txt" in message
        assert state(hub, "me/closed") is None
