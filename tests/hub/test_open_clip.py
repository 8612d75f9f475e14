"""Repositories of open_clip on the test Hub: loaded by their own configuration, edited, pushed, and loaded again."""

import pytest

from tests.support.open_clip_folders import CONFIG, WEIGHTS, open_clip_folder
from tests.support.pushing import refused

pytest_plugins = ["tests.support.push_fixtures"]

LOAD = "constants.HF_HUB_CACHE = cache\neditor = SithEditor.from_pretrained(repo)\n"
PUSH = (
    LOAD
    + """
editor.decompose(ConceptDictionary.from_texts(["red", "a blue sky", "dog", "snow", "night"]), layers=[-1])
spec = editor.edit().vectors(0.0, layers=[2], heads=[1], vectors=[0]).spec
editor.push_to_hub("me/edited-open-clip", spec)
from sith_hf.checkpoint import verify
again = SithEditor.from_pretrained("me/edited-open-clip")
out = [editor.tower.family, editor.loaded.revision, verify("me/edited-open-clip", repo).ok, again.history == (spec,)]
"""
)


@pytest.fixture
def hub(place):
    place.heal()
    place.forget()
    return place


def files(folder, **others):
    return {path.name: path.read_bytes() for path in folder.iterdir()} | others


def test_a_repository_is_edited_and_pushed_as_one_of_open_clip(hub, worker, tmp_path):
    commit = hub.seed("me/open-clip", files(open_clip_folder(tmp_path / "m")))
    out = worker.do(PUSH, hub.token, repo="me/open-clip", cache=str(tmp_path / "cache"))
    assert out == ["open_clip", commit, True, True]
    sent = hub.repo("me/edited-open-clip").files()
    assert {WEIGHTS, CONFIG, "README.md", "sith/edit_spec.safetensors", "vocab.json", "merges.txt"} <= sent.keys()
    assert b"library_name: open_clip" in sent["README.md"]
    assert b'"hf-hub:me/edited-open-clip"' in sent["README.md"]
    assert len(sent[WEIGHTS]) == len((tmp_path / "m" / WEIGHTS).read_bytes())


def test_beside_a_configuration_of_timm_that_of_open_clip_is_read(hub, worker, tmp_path):
    timm = {"config.json": b'{"architecture": "vit_base_patch32_clip_224"}', "model.safetensors": b"of timm"}
    hub.seed("me/timm", files(open_clip_folder(tmp_path / "m"), **timm))
    out = worker.do(LOAD + "out = editor.tower.family", hub.token, repo="me/timm", cache=str(tmp_path / "cache"))
    assert out == "open_clip"


def test_a_refused_model_is_not_downloaded(hub, worker, tmp_path):
    folder = open_clip_folder(tmp_path / "m", vision={"timm_model_name": "fastvit_mci2"})
    hub.seed("me/mobileclip", files(folder))
    message = refused(lambda: worker.do(LOAD, hub.token, repo="me/mobileclip", cache=str(tmp_path / "cache")))
    assert "timm_model_name 'fastvit_mci2': MobileCLIP" in message
    assert not any(WEIGHTS in request.path for request in hub.requests)
