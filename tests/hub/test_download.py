"""Downloads from the test Hub: the files arrive as they were pushed, or one sentence explains why not."""

from __future__ import annotations

import json
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from tests.support.pushing import outcome, refused

pytest_plugins = ["tests.support.push_fixtures"]

# A cache of its own for one call.
FRESH = "constants.HF_HUB_CACHE = cache\n"
READ = {
    "spec": "out = len(EditSpec.from_pretrained(repo, revision=revision, token=outright))",
    "checkpoint": "out = str(locate(repo, revision, outright))",
    "editor": "out = SithEditor.from_pretrained(repo, revision, token=outright).loaded.revision",
}


@pytest.fixture
def hub(place):
    place.heal()
    place.forget()
    return place


@pytest.fixture(scope="module")
def published(place, worker, made):
    """The edited checkpoint as ``me/edited``, private, and the commit of it."""
    code = "out = hub.push_edited(folder, 'me/edited', private=True).commit"
    return worker.do(code, place.token, folder=str(made.edited))


@pytest.fixture
def read(hub, worker, published, tmp_path):
    """Read ``me/edited`` (or another) as a spec, a checkpoint or an editor, into a fresh cache."""

    def call(kind, repo="me/edited", token=None, revision=None, outright=None, cache=None):
        values = {"repo": repo, "revision": revision, "outright": outright, "cache": str(cache or tmp_path / "cache")}
        return worker.do(FRESH + READ[kind], hub.token if token is None else token, **values)

    return call


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other, rounding=0.0):
    return one.keys() == other.keys() and all(torch.allclose(one[k], other[k], rtol=0, atol=rounding) for k in one)


# ---------------------------------------------------------------- what comes back


def test_an_edited_repository_has_a_history_and_is_reverted(hub, worker, made, published, tmp_path):
    code = """
    editor = SithEditor.from_pretrained("me/edited")
    [newest] = editor.history
    saved = editor.revert(folder)
    revert("me/edited", folder + "-too")
    from sith_hf.checkpoint.verify import verify
    found = verify("me/edited", base)
    from transformers import CLIPModel
    import torch
    plain = CLIPModel.from_pretrained("me/edited").state_dict()
    same = all(torch.equal(plain[name], tensor) for name, tensor in editor.model.state_dict().items())
    out = [newest == EditSpec.from_pretrained(spec), editor.loaded.name, editor.loaded.revision, found.problems, same,
           editor.model.config._name_or_path, SithEditor.from_pretrained(folder).history == ()]
    """
    values = {"spec": str(made.root / "spec"), "folder": str(tmp_path / "reverted"), "base": str(made.base)}
    out = worker.do(code, hub.token, **values)
    assert out == [True, "me/edited", published, [], True, "me/edited", True]
    for name in ("reverted", "reverted-too"):
        assert same(weights(tmp_path / name), weights(made.base), 1e-6)
        assert (tmp_path / name / "README.md").read_bytes() == (made.base / "README.md").read_bytes()
        assert not (tmp_path / name / "sith").exists()
    changed = [k for k, v in weights(made.edited).items() if not torch.equal(v, weights(made.base)[k])]
    assert len(changed) == 2  # so the revert had something to do


def test_an_edited_repository_is_edited_again(hub, worker, made, published, tmp_path):
    code = """
    editor = SithEditor.from_pretrained("me/edited")
    words = ConceptDictionary.from_texts(["beach", "ocean", "forest", "snow", "red", "blue", "car", "boat"])
    editor.decompose(words, layers=[1, 2])
    more = editor.edit().vectors(0.5, layers=[2], heads=[0, 2], vectors=[0]).spec
    commit = editor.push_to_hub("me/twice", more, private=True).commit
    twice = SithEditor.from_pretrained("me/twice")
    twice.save_pretrained(folder + "/thrice", EditSpec.from_pretrained(other))
    third = SithEditor.from_pretrained(folder + "/thrice")
    twice.revert(folder + "/once")
    once = SithEditor.from_pretrained(folder + "/once")
    once.revert(folder + "/never")
    out = [len(twice.history), twice.history[0] == more, twice.history[1] == editor.history[0],
           once.history == editor.history, more.base.name, more.base.revision, len(third.history)]
    """
    other = made.root / "other-spec"
    made.editor.edit().vectors(2.0, layers=[0], heads=[3], vectors=[2]).spec.save_pretrained(other)
    out = worker.do(code, hub.token, base=str(made.base), folder=str(tmp_path), other=str(other))
    assert out == [2, True, True, True, "me/edited", published, 3]
    twice = tmp_path / "twice.safetensors"
    twice.write_bytes(hub.repo("me/twice").files()["model.safetensors"])
    assert not same(load_file(twice), weights(made.edited), 1e-4)
    assert same(weights(tmp_path / "once"), weights(made.edited), 1e-6)
    assert same(weights(tmp_path / "never"), weights(made.base), 1e-6)
    assert "base_model: me/edited" in hub.repo("me/twice").files()["README.md"].decode()
    assert "sith/base/edit_spec.safetensors" in hub.repo("me/twice").files()


def test_a_folder_has_a_history_as_well(made):
    from sith_hf.editor import SithEditor

    assert SithEditor.from_pretrained(made.edited).history == (made.spec,)
    assert SithEditor.from_pretrained(made.base).history == () == made.editor.history


def test_a_damaged_record_is_reported(made, tmp_path):
    import shutil

    from sith_hf.editor import SithEditor
    from sith_hf.errors import ArtifactError

    folder = shutil.copytree(made.edited, tmp_path / "edited")
    (folder / "sith" / "edit_spec.safetensors").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=r"edit_spec\.safetensors"):
        SithEditor.from_pretrained(folder)


def test_revisions_are_kept_apart(hub, worker, made, read):
    push = "out = hub.push_edited(folder, 'me/moving').commit"
    first = worker.do(push, hub.token, folder=str(made.edited))
    second = worker.do(push, hub.token, folder=str(made.other))
    assert read("editor", "me/moving") == second
    assert read("editor", "me/moving", revision=first) == first
    assert read("editor", "me/moving", revision="main") == second
    assert [read("spec", "me/moving", revision=r) for r in (first, second)] == [2, 1]


def test_what_is_private_needs_a_token(hub, read, worker):
    for kind in READ:
        assert read(kind, outright=hub.read_token, token="") is not None
    for kind in READ:
        for i, token in enumerate(("", hub.other_token, hub.useless_token)):
            cache = f"{worker.home}/none-{kind}-{i}"
            assert "may not see it" in refused(lambda k=kind, t=token, c=cache: read(k, token=t, cache=c))
        wrong = f"{worker.home}/wrong-{kind}"
        assert "rejects the token" in refused(lambda k=kind, c=wrong: read(k, outright=hub.wrong_token, cache=c))


def test_what_is_not_there(hub, read, worker):
    hub.seed("me/data", {"a.txt": "a"}, kind="dataset")
    hub.seed("me/empty", {"a.txt": "a"})
    for kind in READ:
        assert "no model repository" in refused(lambda k=kind: read(k, "me/nothing")).replace(
            "no dataset", "no model"
        ), kind
        assert "does not have this branch" in refused(lambda k=kind: read(k, revision="nowhere"))
        assert "a/b/c: no" in refused(lambda k=kind: read(k, "a/b/c"))
    assert "dataset repository of this name" in refused(lambda: read("checkpoint", "me/data"))
    assert "dataset repository of this name" in refused(lambda: read("editor", "me/data"))
    assert "does not have this file" in refused(lambda: read("spec", "me/empty"))
    assert "does not have this file" in refused(lambda: read("editor", "me/empty"))
    code = "Decomposition.from_pretrained('me/empty')"
    assert "decomposition.safetensors" in refused(lambda: worker.do(code, hub.token))


def test_no_clip_model_is_downloaded_in_vain(hub, read):
    hub.seed("me/llm", {"config.json": json.dumps({"model_type": "llama"}), "model.safetensors": b"0" * 1000})
    assert "llama" in refused(lambda: read("editor", "me/llm"))
    assert hub.count("download", path="*model.safetensors") == 0
    hub.seed("me/old", {"config.json": json.dumps({"model_type": "clip"}), "pytorch_model.bin": b"0" * 1000})
    assert "safetensors" in refused(lambda: read("editor", "me/old"))
    assert hub.count("download", path="*pytorch_model.bin") == 0


# ---------------------------------------------------------------- what goes wrong on the way

FAULTS = {
    **{str(status): {"status": status} for status in (401, 403, 404, 500)},
    "429": {"status": 429, "retry_after": 0},
    "drop": {"drop": True},
    "cut": {"cut_download": 5},
    "corrupt": {"corrupt": 3},
}


@pytest.mark.parametrize("step", ["info", "tree", "head", "redirect", "download"])
@pytest.mark.parametrize("kind", ["spec", "checkpoint"])
def test_every_fault_at_every_step_ends_in_the_truth_or_in_one_sentence(
    hub, read, made, published, tmp_path, step, kind
):
    whole = dict(hub.repo("me/edited").files())
    for name, fault in FAULTS.items():
        for times in (1, None):
            cache = tmp_path / f"{name}-{times}"
            trouble = hub.fail(step, times=times, **fault)
            message, kinds = outcome(lambda c=cache: read(kind, cache=c))
            hub.heal()
            where = f"{step} {name} {times}: {message}"
            assert kinds is None or "InputError" in kinds, where
            assert message is None or "failed: " in message or "damaged" in message, where
            assert message is None or hub.token not in message
            assert message is None or trouble.struck, where
            # Nothing damaged stays behind: the next attempt, from the same cache, has it all.
            assert read(kind, cache=cache), where
            for path in (cache / "models--me--edited" / "snapshots" / published).rglob("*"):
                if path.is_file() and name == "corrupt":
                    assert (
                        path.read_bytes()
                        == (whole | gitattributes(hub))[str(path.relative_to(snapshot(cache, published)))]
                    )


def snapshot(cache, commit):
    return cache / "models--me--edited" / "snapshots" / commit


def gitattributes(hub):
    return {".gitattributes": hub.repo("me/edited").resolve("main").files[".gitattributes"].data}


@pytest.mark.parametrize(
    ("step", "fault", "reason"),
    [
        ("head", "500", "internal error (500)"),
        ("tree", "drop", "no connection to the Hub"),
        ("download", "corrupt", "arrived damaged"),
        ("head", "403", "may not read"),
    ],
)
@pytest.mark.parametrize("kind", ["editor", "checkpoint"])
def test_an_editor_says_so_too(hub, read, tmp_path, kind, step, fault, reason):
    hub.fail(step, times=None, **FAULTS[fault])
    message = refused(lambda: read(kind))
    assert "no file or folder here has this name, and " in message
    assert reason in message
    assert "no checkpoint there" not in message  # nobody knows
    hub.heal()
    assert read(kind)


def test_a_damaged_download_is_noticed_and_fetched_again(hub, read, tmp_path):
    for kind, pattern in (("spec", "*edit_spec.safetensors"), ("checkpoint", "*/model.safetensors")):
        hub.heal()
        fault = hub.fail("download", path=pattern, corrupt=-1)
        assert "arrived damaged" in refused(lambda k=kind: read(k, cache=tmp_path / k))
        assert fault.struck == 1
        assert read(kind, cache=tmp_path / kind)


def test_a_full_disk(hub, worker, published, tmp_path):
    code = """
    import resource, errno
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        locate("me/edited")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    """
    values = {"cache": str(tmp_path / "cache")}
    message = refused(lambda: worker.do(FRESH + textwrap.dedent(code), hub.token, **values))
    assert "the disk is full" in message
    assert "HF_HOME" in message
    # What had been written is no obstacle once there is room.
    assert worker.do(FRESH + "out = str(locate('me/edited'))", hub.token, **values)
    code = """
    import errno, huggingface_hub.file_download as f
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")
    kept, f.http_get = f.http_get, full
    try:
        EditSpec.from_pretrained("me/edited")
    finally:
        f.http_get = kept
    """
    message = refused(lambda: worker.do(FRESH + textwrap.dedent(code), hub.token, cache=str(tmp_path / "other")))
    assert "the disk is full (No space left on device)" in message


def test_offline_reads_the_cache_and_says_what_is_missing(hub, worker, read, published, tmp_path):
    assert read("editor", cache=tmp_path / "cache") == published
    assert read("spec", cache=tmp_path / "cache")
    hub.forget()
    for kind in READ:
        code = (
            f"constants.HF_HUB_OFFLINE = True\ntry:\n    {READ[kind]}\nfinally:\n    constants.HF_HUB_OFFLINE = False"
        )
        code = FRESH + code
        values = {"repo": "me/edited", "revision": None, "outright": None}
        assert worker.do(code, cache=str(tmp_path / "cache"), **values)
        message = refused(lambda c=code, v=values: worker.do(c, cache=str(tmp_path / "nothing"), **v))
        assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


def test_the_command_line_pulls(hub, worker, made, published, tmp_path):
    code = "out = cli(*arguments)"
    assert "2 tensors" in worker.do(code, hub.token, arguments=["verify", "me/edited", "--base", str(made.base)])["out"]
    shown = worker.do(code, hub.token, arguments=["show", "me/edited", "--details"])
    assert "2 singular vectors in layers [1]" in shown["out"]
    assert worker.do(code, hub.token, arguments=["show", "me/nowhere"])["code"] == 2
    done = worker.do(code, hub.token, arguments=["revert", "me/edited", "-o", str(tmp_path / "back")])
    assert done["code"] == 0
    assert same(weights(tmp_path / "back"), weights(made.base), 1e-6)
    done = worker.do(code, "", arguments=["revert", "me/nowhere", "-o", str(tmp_path / "none")])
    assert done["code"] == 2
    assert done["err"].count("\n") == 1
    assert not (tmp_path / "none").exists()
