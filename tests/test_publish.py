"""Publishing on the test Hub with the real client: the files that arrive, the files that stay, and refusals."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from sith_hf.checkpoint import save_edited
from sith_hf.core.fingerprint import BaseRef
from sith_hf.hub.package import Outgoing, UploadPackage, is_generated, with_checksum
from sith_hf.recipe import Recipe, run_recipe
from tests.support import tiny
from tests.support.hub import leaks, run_cli
from tests.support.made import earlier_releases, tiny_concepts
from tests.support.pushing import PUSH, SENT, refused, state, writes
from tests.support.raw import random_spec, read_raw, write_raw

pytest_plugins = ["tests.support.push_fixtures"]


@pytest.fixture
def hub(place):
    place.heal()
    place.forget()
    return place


# ---------------------------------------------------------------- what arrives


def test_a_push_makes_one_commit_and_the_same_again_none(hub, push, made):
    first = push("me/first", private=True)
    repo = hub.repo("me/first")
    assert set(repo.files()) == SENT == set(first["sent"])
    assert repo.private
    assert [commit.title for commit in repo.log()] == ["Upload an edited checkpoint with sith-hf", "initial commit"]
    assert first["commit"] == repo.head()
    assert first["url"] == f"{hub.url}/me/first"
    assert first["creates"]
    assert first["sent"]["model.safetensors"] == (made.edited / "model.safetensors").stat().st_size
    assert repo.files()["model.safetensors"] == (made.edited / "model.safetensors").read_bytes()
    assert repo.files()["sith/base/README.md"] == (made.base / "README.md").read_bytes()
    assert is_generated(repo.files()["README.md"].decode())
    assert "license: mit" in repo.files()["README.md"].decode()
    hub.forget()
    again = push("me/first", private=True)
    assert again["nothing_to_do"]
    assert (again["sent"], again["deleted"], again["commit"], again["creates"]) == ({}, [], repo.head(), False)
    assert set(again["unchanged"]) == SENT
    assert writes(hub) == []


def test_what_was_sent_names_no_local_folder(hub, push, made, worker):
    push("me/anonymous")
    files = hub.repo("me/anonymous").files()
    assert [name for name, content in files.items() if b"secret-folder" in content] == []
    path = made.root / "fetched.safetensors"
    path.write_bytes(files["sith/edit_spec.safetensors"])
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["sith"])["base"]["name"] == "a local checkpoint"
    assert "base_model" not in files["README.md"].decode()


@pytest.mark.parametrize(
    ("recorded", "named"),
    [
        ("openai/clip-vit-base-patch32", True),
        ("./models/clip", False),
        ("/data/me/clip", False),
        ("clip", False),
        ("a/b/c", False),
        (7, False),
    ],
)
def test_a_base_is_named_if_the_checkpoint_records_its_id(push, made, tmp_path, recorded, named):
    folder = shutil.copytree(made.edited, tmp_path / "edited")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": recorded}))
    card = push(f"me/named-{hashlib.sha1(str(recorded).encode()).hexdigest()[:6]}", folder, dry_run=True)["card"]
    assert (f"base_model: {recorded}\n" in card) is named
    assert named or "base_model" not in card


def test_stale_weights_of_an_earlier_push_go_in_the_same_commit(hub, push, made):
    push("me/stale", made.other)
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": "{}", "notes.txt": "by hand"}
    old |= {"sith/base/edit_spec.safetensors": b"2", "adapter/adapter_model.safetensors": b"3"}
    before = hub.seed("me/stale", old)
    done = push("me/stale", commit_message="Better")
    files = hub.repo("me/stale").files()
    assert set(files) == SENT | {"notes.txt", "adapter/adapter_model.safetensors"}
    gone = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "sith/base/edit_spec.safetensors"]
    assert sorted(done["deleted"]) == gone
    assert "config.json" in done["unchanged"]
    assert hub.repo("me/stale").resolve("main").title == "Better"
    assert hub.repo("me/stale").resolve("main").parent == before


def test_a_sharded_checkpoint_travels_with_its_index(hub, push, tmp_path):
    from sith_hf.editor import SithEditor

    base = tiny.save_clip(tmp_path / "base", seed=2, max_shard_size="60KB")
    editor = SithEditor.from_pretrained(base)
    editor.decompose(tiny_concepts(), layers=[1])
    editor.save_pretrained(tmp_path / "edited", editor.edit().vectors(0.0, layers=[1], heads=[1], vectors=[0]).spec)
    push("me/shards")
    push("me/shards", tmp_path / "edited")
    files = hub.repo("me/shards").files()
    local = {p.name for p in (tmp_path / "edited").glob("model*")}
    assert len(local) > 3
    assert {name for name in files if name.startswith("model")} == local


@pytest.mark.parametrize("hand", ["# Mine\n", "---\nlicense: mit\n---\n# Mine\n", "", "\ufeff---\r\n---\r\n"])
def test_a_card_written_by_hand_is_kept(hub, push, hand):
    repo = f"me/hand-{hashlib.sha1(hand.encode()).hexdigest()[:6]}"
    hub.seed(repo, {"README.md": hand})
    done = push(repo)
    assert "by hand" in done["card_kept"]
    assert hub.repo(repo).files()["README.md"].decode() == hand
    assert set(hub.repo(repo).files()) == SENT
    assert push(repo)["nothing_to_do"]
    done = push(repo, overwrite_card=True)
    assert list(done["sent"]) == ["README.md"]
    assert done["card_kept"] is None
    assert is_generated(hub.repo(repo).files()["README.md"].decode())


def test_a_card_of_ours_is_replaced_until_somebody_changes_it(hub, push, made):
    push("me/card", made.other)
    ours = hub.repo("me/card").files()["README.md"].decode()
    hub.seed("me/card", {"README.md": ours.replace("\n", "\r\n")})
    assert push("me/card")["card_kept"] is None
    changed = hub.repo("me/card").files()["README.md"].decode().replace("vectors", "vectors, and I mean it")
    hub.seed("me/card", {"README.md": changed})
    assert push("me/card", made.other)["card_kept"] is not None
    assert hub.repo("me/card").files()["README.md"].decode() == changed


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 403}, {"drop": True}, {"cut_download": 3}, {"corrupt": 40}]
)
def test_a_card_that_cannot_be_read_is_kept(hub, push, made, fault):
    repo = f"me/unread-{next(iter(fault))}{fault.get('status', '')}"
    push(repo, made.other)
    ours = hub.repo(repo).files()["README.md"]
    for route in ("head", "download") if "status" in fault or "drop" in fault else ("download",):
        hub.fail(route, path=f"{repo}/README.md", times=None, **fault)
    done = push(repo)
    assert "could not be read" in done["card_kept"]
    assert hub.repo(repo).files()["README.md"] == ours
    hub.heal()
    assert list(push(repo)["sent"]) == ["README.md"]


def test_a_branch_is_made_and_a_pull_request_opened(hub, push, made):
    push("me/branches", made.other)
    main = hub.repo("me/branches").head()
    done = push("me/branches", revision="next/one")
    assert done["revision"] == "next/one"
    assert hub.repo("me/branches").head("next/one") == done["commit"]
    assert hub.repo("me/branches").head() == main
    assert push("me/branches", revision="next/one")["nothing_to_do"]
    done = push("me/branches", create_pr=True, token=hub.other_token)
    assert done["pull_request"] == f"{hub.url}/me/branches/discussions/1"
    assert done["commit"] is None
    assert hub.repo("me/branches").head() == main
    proposed = hub.repo("me/branches").files("refs/pr/1")
    assert proposed["model.safetensors"] == (made.edited / "model.safetensors").read_bytes()
    done = push("me/branches", revision="refs/pr/1", folder=made.other)
    assert hub.repo("me/branches").head("refs/pr/1") == done["commit"]


def test_a_name_alone_goes_to_the_user_of_the_token(hub, push):
    assert push("alone")["repo_id"] == "me/alone"
    assert push("team/ours")["repo_id"] == "team/ours"
    assert set(hub.repo("me/alone").files()) == SENT == set(hub.repo("team/ours").files())


def test_a_dry_run_reports_everything_and_writes_nothing(hub, push, made):
    done = push("me/dry", dry_run=True)
    assert set(done["sent"]) == SENT
    assert (done["creates"], done["commit"], done["dry_run"]) == (True, None, True)
    assert state(hub, "me/dry") is None
    push("me/dry", made.other)
    hub.seed("me/dry", {"model-1.safetensors": b"old"})
    before = state(hub, "me/dry")
    hub.forget()
    done = push("me/dry", dry_run=True, revision="new")
    assert set(done["sent"]) == {"README.md", "model.safetensors"} | {
        name for name in SENT if name.startswith("sith/")
    } - {"sith/base/README.md"}
    assert done["deleted"] == ["model-1.safetensors"]
    assert is_generated(done["card"])
    assert writes(hub) == []
    assert state(hub, "me/dry") == before


def test_a_dry_run_needs_no_token(hub, worker, made):
    done = worker.do(PUSH, None, folder=str(made.edited), repo="me/tokenless", options={"dry_run": True})
    assert set(done["sent"]) == SENT


# ---------------------------------------------------------------- what is refused


def test_without_a_token_nothing_is_asked(hub, worker, made):
    message = refused(lambda: worker.do(PUSH, None, folder=str(made.edited), repo="me/none", options={}))
    assert "hf auth login" in message
    assert hub.requests == []


def test_offline_mode_is_reported_first(hub, worker, made):
    code = f"""
    constants.HF_HUB_OFFLINE = True
    try:
        {PUSH}
    finally:
        constants.HF_HUB_OFFLINE = False
    """
    # Before the folder is looked at, too.
    for folder in (made.edited, "nowhere"):
        values = {"folder": str(folder), "repo": "me/x", "options": {}}
        message = refused(lambda values=values: worker.do(code, hub.token, **values))
        assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


@pytest.mark.parametrize("name", ["me/offline", "offline"])
@pytest.mark.parametrize("token", [True, False])
def test_a_dry_run_works_offline(hub, worker, made, name, token):
    code = f"""
    constants.HF_HUB_OFFLINE = True
    try:
        {PUSH}
        said = cli("push-edited", folder, "--repo-id", repo, "--dry-run")
    finally:
        constants.HF_HUB_OFFLINE = False
    out = [out, said]
    """
    values = {"folder": str(made.edited), "repo": name, "options": {"dry_run": True}}
    done, said = worker.do(code, hub.token if token else None, **values)
    assert set(done["sent"]) == SENT
    assert (done["compared"], done["creates"], done["nothing_to_do"]) == (False, False, False)
    assert "# offline" in done["card"]
    assert said["code"] == 0
    assert "not compared with the repository" in said["out"]
    assert hub.requests == []


def test_a_dry_run_without_a_connection_is_told_from_one_that_is_refused(hub, push):
    hub.fail("info", drop=True, times=None)
    done = push("me/unreachable", dry_run=True)
    assert set(done["sent"]) == SENT
    assert not done["compared"]
    hub.heal()
    assert push("me/unreachable", dry_run=True)["compared"]
    assert "rejects the token" in refused(lambda: push("me/unreachable", dry_run=True, token=hub.wrong_token))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"create_pr": True, "revision": "next"}, "exclude each other"),
        ({"privat": True}, "unknown option privat"),
        ({"token": "hf_ümlaut"}, "characters"),
        ({"token": "hf_abc\nX-Other: 1"}, "characters"),
    ],
)
def test_options_that_make_no_sense(hub, push, options, words):
    before = len(hub.store.repos)
    message = refused(lambda: push("me/options", **options))
    assert words in message
    assert "hf_" not in message.replace("`hf auth login`", "")
    assert writes(hub) == []
    assert len(hub.store.repos) == before


@pytest.mark.parametrize("name", ["a/b/c", "me/..", "", "me/ x", "-me/x", "me/x\n", "https://huggingface.co/me/x"])
def test_names_that_are_none(hub, push, name):
    assert "namespace/name" in refused(lambda: push(name))
    assert hub.requests == []


def test_tokens_that_may_not(hub, push, made):
    push("me/guarded", made.other)
    before = state(hub, "me/guarded")
    for token, words in (
        (hub.wrong_token, "rejects the token"),
        (hub.read_token, "write access"),
        (hub.useless_token, "write access"),
        (hub.other_token, "write access"),
    ):
        assert words in refused(lambda token=token: push("me/guarded", token=token))
        assert words in refused(lambda token=token: push("me/unborn", token=token))
        assert words in refused(lambda token=token: push("me/guarded", token=token, revision="next"))
    assert "namespace" in refused(lambda: push("nowhere/x"))
    assert state(hub, "me/guarded") == before
    assert state(hub, "me/unborn") is state(hub, "nowhere/x") is None


def test_a_repository_that_holds_something_else(hub, push, worker, made):
    hub.seed("me/theirs", {"model.safetensors": b"theirs"})
    before = state(hub, "me/theirs")
    assert "sith-hf did not write" in refused(lambda: push("me/theirs"))
    assert "sith-hf did not write" in refused(lambda: push("me/theirs", dry_run=True))
    assert state(hub, "me/theirs") == before
    assert push("me/theirs", create_pr=True)["pull_request"]
    hub.seed("me/theirs-too", {"a.txt": "a"}, kind="dataset")
    assert push("me/theirs-too")["creates"]  # another repository: the Hub keeps the types apart
    assert hub.repo("me/theirs-too", "dataset").files() == {"a.txt": b"a"}
    assert "is public" in refused(lambda: push("me/theirs-too", private=True))
    code = "out = EditSpec.from_pretrained(spec).push_to_hub(repo).to_json()"
    push("me/whole")
    where = str(made.root / "spec")
    assert "edited checkpoint" in refused(lambda: worker.do(code, hub.token, spec=where, repo="me/whole"))


def test_folders_that_are_no_edited_checkpoint(hub, push, made, tmp_path):
    before = len(hub.store.repos)
    assert "save-edited" in refused(lambda: push("me/bad", made.base))
    assert "save-edited" in refused(lambda: push("me/bad", tmp_path / "missing"))
    assert "save-edited" in refused(lambda: push("me/bad", made.root / "spec"))
    swapped = shutil.copytree(made.edited, tmp_path / "swapped")
    shutil.copyfile(made.base / "model.safetensors", swapped / "model.safetensors")
    assert "other values" in refused(lambda: push("me/bad", swapped))
    (swapped / "model.safetensors").write_bytes(b"short")
    assert "safetensors" in refused(lambda: push("me/bad", swapped))
    assert hub.requests == []
    assert len(hub.store.repos) == before


# ---------------------------------------------------------------- the command line


def test_the_command_line_with_the_real_card(hub, made, tmp_path):
    arguments = (
        "push-edited",
        str(made.edited),
        "--repo-id",
        "me/cli",
        "--private",
        "--commit-message",
        "From a shell",
    )
    done = run_cli(hub, *arguments, token=hub.token, home=tmp_path)
    assert done.returncode == 0, done.stderr
    repo = hub.repo("me/cli")
    assert set(repo.files()) == SENT
    assert repo.private
    assert repo.resolve("main").title == "From a shell"
    assert done.stdout.rstrip().endswith(f"{hub.url}/me/cli")
    card = repo.files()["README.md"].decode()
    assert is_generated(card)
    assert "license: mit" in card
    assert "secret-folder" not in card
    assert leaks(hub, done, tmp_path) == []


def test_the_command_line_answers(hub, worker, made):
    def cli(*arguments, token=hub.token):
        code = "out = cli('push-edited', *arguments)"
        return worker.do(code, token, arguments=[*arguments, "--repo-id", "me/answers"])

    dry = cli(str(made.edited), "--dry-run")
    assert dry["code"] == 0
    assert "a new repository" in dry["out"]
    assert "186532" in dry["out"]
    assert "# answers" in dry["out"]
    assert all(name in dry["out"] for name in SENT)
    assert state(hub, "me/answers") is None
    as_json = json.loads(cli(str(made.edited), "--json", "--token", hub.token, token=None)["out"])
    assert set(as_json["sent"]) == SENT
    assert "nothing to do" in cli(str(made.edited))["out"]
    assert cli(str(made.edited), "--dry-run")["out"].startswith("nothing would be sent")
    hub.seed("me/answers", {"README.md": "mine"})
    again = cli(str(made.other), "--details")
    assert "kept" in again["err"]
    assert "sent model.safetensors" in again["out"]
    replaced = cli(str(made.other), "--details", "--overwrite-card")
    assert "sent README.md" in replaced["out"]
    assert "discussions/1" in cli(str(made.edited), "--create-pr")["out"]
    for wrong, words in (
        ((), "give either FOLDER"),
        ((str(made.edited), "--base", "b"), "give either FOLDER"),
        (("--base", "b"), "--spec and --recipe"),
        (("--base", "b", "--spec", "s", "--recipe", "r"), "--spec and --recipe"),
        ((str(made.edited), "--spec", "s"), "--spec and --recipe"),
        ((str(made.edited), "--create-pr", "--revision", "x"), "leave out"),
        ((str(made.edited), "--token", hub.wrong_token), "rejects the token"),
    ):
        done = cli(*wrong)
        assert done["code"] == 2
        assert words in done["err"]
        assert done["err"].count("\n") == 1
        assert hub.wrong_token not in done["err"]


def test_an_edited_checkpoint_is_made_on_the_way(hub, worker, made, tmp_path):
    code = "out = cli('push-edited', *arguments)"
    options = ["--base", str(made.base), "--spec", str(made.root / "spec"), "--repo-id", "me/on-the-way"]
    done = worker.do(code, hub.token, arguments=options)
    assert done["code"] == 0, done["err"]
    files = hub.repo("me/on-the-way").files()
    assert files["model.safetensors"] == (made.edited / "model.safetensors").read_bytes()
    recipe = tmp_path / "recipe.yaml"
    words = ", ".join(tiny_concepts().texts)
    recipe.write_text(
        f"title: test\ndictionary: {{texts: [{words}]}}\ndecompose: {{layers: [1], rank: 2}}\n"
        "edits:\n- {concepts: [beach], threshold: 0.01, near: 0.1}\nlarge_edit: true\n"
    )
    done = worker.do(code, hub.token, arguments=[*options[:2], "--recipe", str(recipe), "--repo-id", "me/r"])
    assert done["code"] == 0, done["err"]
    pushed = hub.repo("me/r").files()
    resolved = Recipe.from_text(pushed["sith/recipe.yaml"].decode(), "pushed")
    assert (resolved.title, resolved.decompose.layers, resolved.decompose.rank) == ("test", (1,), 2)
    assert resolved.base.sha256
    ran = run_recipe(recipe, tmp_path / "run", overrides=[f"base.model={made.base}"])
    assert pushed["model.safetensors"] == (ran.folder / "edited" / "model.safetensors").read_bytes()
    assert pushed["model.safetensors"] != files["model.safetensors"]
    assert str(made.base.parent) not in pushed["sith/recipe.yaml"].decode()
    assert "title: test" in pushed["README.md"].decode()


def test_an_editor_pushes(hub, worker, made):
    code = """
    editor = SithEditor.from_pretrained(base)
    spec = EditSpec.from_pretrained(spec)
    pushed = editor.push_to_hub("me/by-editor", spec, private=True, commit_message="By hand")
    again = editor.push_to_hub("me/by-editor", spec)
    out = [pushed.commit, pushed.pull_request, sorted(pushed.sent), pushed.nothing_to_do, again.nothing_to_do]
    """
    out = worker.do(code, hub.token, base=str(made.base), spec=str(made.root / "spec"))
    repo = hub.repo("me/by-editor")
    assert out == [repo.head(), None, sorted(SENT), False, True]
    assert repo.resolve("main").title == "By hand"


# ---------------------------------------------------------------- specs, decompositions, dictionaries


def test_results_are_published_and_read_back(hub, worker, made):
    code = """
    kind = {"spec": EditSpec, "decomposition": Decomposition, "dictionary": ConceptDictionary}[name]
    pushed = kind.from_pretrained(folder).push_to_hub("me/my-" + name, private=True)
    again = kind.from_pretrained("me/my-" + name).push_to_hub("me/my-" + name)
    back = kind.from_pretrained("me/my-" + name, revision=pushed.commit, token=outright)
    same = back == kind.from_pretrained(folder) if name == "spec" else back.texts == kind.from_pretrained(folder).texts
    out = [sorted(pushed.sent), again.nothing_to_do, same, pushed.url]
    """
    table = ["README.md", "data/train.parquet"]
    for name, expected in (
        ("spec", ["README.md", "edit_spec.safetensors"]),
        ("decomposition", [*table, "decomposition.safetensors"]),
        ("dictionary", [*table, "dictionary.safetensors"]),
    ):
        folder = str(made.root / name)
        out = worker.do(code, hub.token, name=name, folder=folder, outright=hub.token)
        kind = "model" if name == "spec" else "dataset"
        assert out[:3] == [expected, True, True], name
        assert out[3] == f"{hub.url}/{'' if kind == 'model' else 'datasets/'}me/my-{name}"
        files = hub.repo(f"me/my-{name}", kind).files()
        assert [item for item, content in files.items() if b"secret-folder" in content] == []
        assert hub.repo(f"me/my-{name}", kind).private
        assert is_generated(files["README.md"].decode())


def test_the_hub_s_viewer_finds_the_tables(hub, worker, made):
    code = """
    Decomposition.from_pretrained(d).push_to_hub("me/table-d")
    ConceptDictionary.from_pretrained(c).push_to_hub("me/table-c")
    from datasets import load_dataset
    rows, words = load_dataset("me/table-d", split="train"), load_dataset("me/table-c", split="train")
    out = [rows.column_names, len(rows), rows[0]["layer"], words["concept"][:3]]
    """
    out = worker.do(code, hub.token, d=str(made.root / "decomposition"), c=str(made.root / "dictionary"))
    assert {"layer", "head", "vector", "pole", "concepts", "weights", "fidelity"} <= set(out[0])
    assert out[1:3] == [2 * 4 * 8 * 2, 0]
    assert out[3] == list(tiny_concepts().texts[:3])


def test_results_do_not_overwrite_each_other(hub, worker, made):
    code = """
    Decomposition.from_pretrained(d).push_to_hub("me/both")
    ConceptDictionary.from_pretrained(c).push_to_hub("me/both")
    """
    values = {"d": str(made.root / "decomposition"), "c": str(made.root / "dictionary")}
    assert "already holds a decomposition" in refused(lambda: worker.do(code, hub.token, **values))
    assert "dictionary.safetensors" not in hub.repo("me/both", "dataset").files()


# ---------------------------------------------------------------- the code that cards show

RUN = """
import tempfile
printed, space = io.StringIO(), {}
with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
    exec(shown, space)
    written = {str(path): path.read_bytes().hex() for path in Path().rglob("*.safetensors")}
out = {"printed": printed.getvalue().splitlines(), "written": written}
out |= {"edit": str(space.get("edit")), "texts": getattr(space.get("concepts"), "texts", None)}
"""


def code_of(card):
    """The Python code that a card shows."""
    return "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))


@pytest.mark.parametrize("make", [tiny.clip_model, tiny.vision_model, tiny.projected_vision_model])
def test_the_code_on_the_cards_of_an_edit_runs(hub, worker, push, tmp_path, make):
    model = make()
    name = f"me/{type(model).__name__.lower()}"
    model.save_pretrained(tmp_path / "base")
    tiny.image_processor().save_pretrained(tmp_path / "base")
    tiny.byte_tokenizer(tmp_path / "bytes").save_pretrained(tmp_path / "base")
    commit = hub.seed(f"{name}-base", {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()})
    local = random_spec(tmp_path / "base")
    spec = replace(local, base=BaseRef(f"{name}-base", commit, local.base.sha256))
    code = "out = EditSpec.from_pretrained(folder).push_to_hub(repo).repo_id"
    for one, kind in ((spec, "spec"), (spec.inverse(), "revert")):
        one.save_pretrained(tmp_path / kind)
        worker.do(code, hub.token, folder=str(tmp_path / kind), repo=f"{name}-{kind}")
    for one, kind in ((spec, "edited"), (local, "local")):
        save_edited(tmp_path / "base", one, tmp_path / kind)
        push(f"{name}-{kind}", tmp_path / kind)
    cards = {k: hub.repo(f"{name}-{k}").files()["README.md"].decode() for k in ("spec", "revert", "edited", "local")}

    count = len(model.state_dict())
    expected = [
        f"4 tensors hold the edit, {count - 4} equal the base",
        f"4 of {count} tensors differ from the base",
        "4 tensors restored in reverted",
    ]
    edited = (tmp_path / "edited" / "model.safetensors").read_bytes().hex()
    assert f'revision="{commit}"' in cards["edited"]
    *scored, first, second, third = worker.do(RUN, hub.token, shown=code_of(cards["edited"]))["printed"]
    assert [first, second, third] == expected
    # The pipeline prints the scores of two labels, or the features of a picture.
    assert len(scored) == (2 if make is tiny.clip_model else 1)
    place = json.dumps(str(tmp_path / "base"))
    code = code_of(cards["local"]).replace('"path/to/the/base"', place)
    ran = worker.do(RUN, hub.token, shown=code)
    assert ran["printed"] == [*scored, *expected]
    assert list(ran["written"]) == ["reverted/model.safetensors"]
    assert worker.do(RUN, hub.token, shown=code_of(cards["spec"]))["written"]["edited/model.safetensors"] == edited
    assert worker.do(RUN, hub.token, shown=code_of(cards["revert"]))["edit"] == str(spec)
    # The control: the code fails on another base.
    message = refused(
        lambda: worker.do(RUN, hub.token, shown=code.replace(place, json.dumps(str(tmp_path / "edited"))))
    )
    assert "other values" in message


def test_the_code_on_the_cards_of_datasets_runs(hub, worker, made):
    code = """
    Decomposition.from_pretrained(d).push_to_hub("me/code-d")
    ConceptDictionary.from_pretrained(c).push_to_hub("me/code-c")
    """
    worker.do(code, hub.token, d=str(made.root / "decomposition"), c=str(made.root / "dictionary"))
    cards = [hub.repo(f"me/code-{kind}", "dataset").files()["README.md"].decode() for kind in "dc"]
    shown, words = (worker.do(RUN, hub.token, shown=code_of(card)) for card in cards)
    assert shown["printed"] == str(made.editor.decomposition.explain(1, 0, 0)).splitlines()
    assert words["texts"] == list(tiny_concepts().texts)


# ---------------------------------------------------------------- the parts


def test_the_checksum_breaks_with_any_change():
    card = with_checksum("---\na: b\n---\n# Title\n\nText\n")
    assert is_generated(card)
    assert is_generated(card.replace("\n", "\r\n"))
    assert is_generated(card + "\n\n")
    assert with_checksum(card) == card
    for i in range(0, len(card) - 1, 3):
        assert not is_generated(card[:i] + "~" + card[i + 1 :])
    assert not is_generated("")
    assert not is_generated("# Title\n")
    assert not is_generated(card + "and more\n")


def test_hashes_and_stale_names(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    for source in (b"hello", tmp_path / "a"):
        item = Outgoing("a", source)
        assert item.size == 5
        assert item.sha256 == hashlib.sha256(b"hello").hexdigest()
        assert item.git_id == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"  # git hash-object
    package = UploadPackage({"new.safetensors": b""}, "", "", {}, stale=("*.safetensors", "sith/*"))
    stale = ["old.safetensors", "sith/a", "sith/base/b.safetensors"]
    assert [
        name for name in (*stale, "new.safetensors", "x/old.safetensors", "a.txt") if package.is_stale(name)
    ] == stale


def test_nothing_here_reads_the_user_s_own_token(place, worker):
    assert worker.do("from huggingface_hub import get_token\nout = get_token()") is None
    assert worker.do("out = os.environ['HF_HOME']").startswith(str(Path(worker.home)))


def test_places_tokens_pickles_and_links_stay_at_home(hub, push, made, tmp_path):
    folder = shutil.copytree(made.edited, tmp_path / "edited")
    config = json.loads((folder / "config.json").read_text())
    vision = {**config["vision_config"], "_name_or_path": "C:\\me\\private"}
    (folder / "config.json").write_text(
        json.dumps({**config, "_name_or_path": "/data/me/private/clip", "vision_config": vision})
    )
    (folder / "optimizer.pt").write_bytes(b"state")
    (tmp_path / "elsewhere.txt").write_text("not for others")
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    push("me/at-home", folder)
    files = hub.repo("me/at-home").files()
    assert set(files) == SENT
    assert json.loads(files["config.json"]) == config
    (folder / "notes.txt").write_text("log in with hf_" + "a" * 30)
    again = push("me/at-home", folder)
    assert again["nothing_to_do"]
    assert set(again["left_out"]) == {"optimizer.pt", "link.txt", "notes.txt"} == set(again["reasons"])
    assert "link out of the folder" in again["reasons"]["link.txt"]


TOKEN = "hf_" + "aB3dE" * 7
JUDGE = "judge-secret-1234567"


def with_metadata(path, text):
    """Put a text into the header of a safetensors file, whose tensors stay."""
    tensors, _ = read_raw(path)
    write_raw(path, tensors, {"format": "pt", "note": text})


def with_tensor(path, text):
    """Put a text into the bytes of a tensor that no edit touches."""
    tensors, metadata = read_raw(path)
    key = next(key for key in tensors if "out_proj" not in key and len(tensors[key].content) > 200)
    content = text.encode() + tensors[key].content[len(text) :]
    write_raw(path, {**tensors, key: tensors[key]._replace(content=content)}, metadata)


@pytest.mark.parametrize("secret", [TOKEN, JUDGE])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("LICENSE", Path.write_text),
        ("LICENSE", lambda path, text: path.write_text(text, encoding="utf-16")),
        ("sith/base/README.md", lambda path, text: path.write_text(f"# Base\n{text}")),
        ("README.md", lambda path, text: path.write_text(f"# By hand\n{text}")),
        ("sith/recipe.yaml", lambda path, text: path.write_text(f"title: {text}\n")),
        ("tokenizer.json", lambda path, text: path.write_text(f'{{"a": "{text}"}}')),
        ("model.safetensors", with_metadata),
        ("model.safetensors", with_tensor),
        ("notes.txt", Path.write_text),
    ],
)
def test_no_byte_of_a_token_is_sent(hub, worker, made, tmp_path, name, write, secret):
    folder = shutil.copytree(made.edited, tmp_path / "edited")
    (folder / "notes.txt").write_text("nothing")
    code = """
    os.environ["SITH_HF_JUDGE_TOKEN"] = judge
    try:
        out = hub.push_edited(folder, repo, include="*.txt", dry_run=True).to_json()
    finally:
        del os.environ["SITH_HF_JUDGE_TOKEN"]
    """
    values = {"folder": str(folder), "repo": "me/secrets", "judge": JUDGE}
    assert "notes.txt" in worker.do(code, hub.token, **values)["sent"]  # the control
    hub.forget()
    write(folder / name, secret)
    message = refused(lambda: worker.do(code, hub.token, **values))
    assert name in message
    assert "token" in message.lower()
    assert secret not in message
    assert hub.requests == []


@pytest.mark.parametrize("secret", [TOKEN, None])
def test_no_token_is_sent_in_words(hub, push, made, tmp_path, secret):
    secret = secret or hub.token
    message = refused(lambda: push("me/secrets", commit_message=f"with {secret}"))
    assert "the commit message" in message
    folder = shutil.copytree(made.edited, tmp_path / "edited")
    (folder / f"LICENSE-{secret}").write_text("")
    message += refused(lambda: push("me/secrets", folder))
    assert "the name of a file" in message
    assert secret not in message
    assert hub.requests == []


def test_what_an_earlier_release_published_is_reported(hub, push, made, tmp_path):
    old = {"training_args.bin": b"pickle", "checkpoint-10/model.safetensors": b"1", "sith/base_card.md": b"# Base\n"}
    hub.seed("me/earlier", {**old, "sith/edit_spec.safetensors": b"old"})
    done = push("me/earlier")
    assert done["deleted"] == ["sith/base_card.md"]
    assert done["others"] == ["checkpoint-10/model.safetensors", "training_args.bin"]
    assert set(hub.repo("me/earlier").files()) == {*SENT, *done["others"]}
    assert push("me/earlier")["nothing_to_do"]


def test_a_local_card_that_was_changed_by_hand_is_the_card(hub, push, made, tmp_path):
    folder = shutil.copytree(made.edited, tmp_path / "edited")
    push("me/own-words", folder)
    (folder / "README.md").write_text("# My own words\n")
    done = push("me/own-words", folder)
    assert (list(done["sent"]), done["card_kept"]) == (["README.md"], None)
    assert hub.repo("me/own-words").files()["README.md"] == b"# My own words\n"
    assert push("me/own-words", folder)["nothing_to_do"]
    hub.seed("me/own-words", {"README.md": "# Words on the Hub\n"})
    assert "by hand" in push("me/own-words", folder)["card_kept"]


def test_a_folder_of_an_earlier_release_is_pushed(hub, push, made, tmp_path):
    card = (made.base / "README.md").read_bytes()
    for kind, folder in earlier_releases(made.edited, card, tmp_path).items():
        push(f"me/of-{kind}", folder)
        files = hub.repo(f"me/of-{kind}").files()
        assert set(files) == SENT
        assert files["sith/base/README.md"] == card
        assert is_generated(files["README.md"].decode())
        assert "license: mit" in files["README.md"].decode()


def test_results_travel_with_the_checkpoint(hub, push, made, tmp_path):
    folder = shutil.copytree(made.edited, tmp_path / "edited")
    results = {"results": [{"dataset": "d", "metric": "accuracy", "base": 0.5, "edited": 0.75}], "collateral": []}
    push("me/measured", folder, evaluation=results)
    assert json.loads(hub.repo("me/measured").files()["sith/evaluation.json"]) == results
    (folder / "sith" / "evaluation.json").write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    assert push("me/measured", folder)["sent"] == {}


def test_a_repository_that_may_be_somebody_elses_is_not_taken_back(hub, push, made):
    hub.fail("create", drop=True, meanwhile=lambda: hub.seed("me/raced-too", {".gitattributes": ""}))
    hub.fail("lfs_put", status=403, times=None)
    refused(lambda: push("me/raced-too"))
    hub.heal()
    assert hub.repo("me/raced-too").head()
