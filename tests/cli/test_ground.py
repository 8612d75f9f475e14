"""``sith-hf ground``: a contact sheet and a table, resumed, repeated, refused."""

import json

import pytest
from PIL import Image

from sith_hf.grounding import strongest
from tests.grounding.test_ground import files, rows
from tests.support import tiny
from tests.support.cli import sith
from tests.support.made import WORDS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint, its decomposition and pictures."""
    folder = tmp_path_factory.mktemp("made")
    tiny.save_clip(folder / "clip")
    tiny.image_processor().save_pretrained(folder / "clip")
    (folder / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    rows(files(40)).save_to_disk(folder / "pictures")
    ran = sith("decompose", folder / "clip", "-o", folder / "d", "--concepts", folder / "words.txt", "--layers", "1,2")
    assert ran.code == 0, ran.err
    return folder


def run(made, output, *more, images=True):
    named = ("--images", made / "pictures") if images else ()
    return sith("ground", made / "clip", "--decomposition", made / "d", "-o", output, *named, *more)


def test_sheet_table_and_json(made, tmp_path):
    ran = run(made, tmp_path / "out", "--top", "2", "--json")
    assert ran.code == 0, ran.err
    assert len(ran.data["poles"]) == 4
    assert ran.data["images"]["count"] == 40
    assert ran.data["sheet"] == str(tmp_path / "out" / "grounding.png")
    stored = json.loads((tmp_path / "out" / "grounding.json").read_text())
    assert stored["poles"] == ran.data["poles"]
    assert Image.open(ran.data["sheet"]).size[0] > 1000
    assert not (tmp_path / "out.work").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = run(made, tmp_path / "out", "--top", "2")
    assert again.code == 0
    assert "4 poles on 40 images" in again.out
    assert "already done" in again.err
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_other_results_are_refused_before_the_work(made, tmp_path, monkeypatch):
    assert run(made, tmp_path / "out", "--top", "1").code == 0
    passes = []
    monkeypatch.setattr(strongest, "_part", lambda *args, real=strongest._part: passes.append(1) or real(*args))
    ran = run(made, tmp_path / "out", "--top", "3")
    assert (ran.code, passes) == (2, [])
    assert "already has another grounding" in ran.err
    assert run(made, tmp_path / "out", "--top", "3", "--overwrite").code == 0
    assert len(json.loads((tmp_path / "out" / "grounding.json").read_text())["poles"]) == 6


def test_the_vectors_of_an_edit(made, tmp_path):
    numbers = ("--gain", "0", "--layers", "2", "--heads", "1", "--vectors", "0,3")
    where = ("--decomposition", made / "d", "-o", tmp_path / "edit", "--yes")
    ran = sith("edit", made / "clip", *numbers, *where)
    assert ran.code == 0, ran.err
    ran = run(made, tmp_path / "out", "--spec", tmp_path / "edit", "--json")
    assert ran.code == 0, ran.err
    assert [(p["layer"], p["head"], p["vector"]) for p in ran.data["poles"][::2]] == [(2, 1, 0), (2, 1, 3)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--layers", "0"), "layer 0 was not decomposed"),
        (("--top", "0"), "top"),
        (("--column", "photo"), "no column photo"),
        (("--limit", "10"), "at least 32"),
        (("--batch-size", "0"), "batch_size"),
        (("--spec", "nowhere"), "nowhere"),
    ],
)
def test_bad_options_end_in_one_line(made, tmp_path, more, message):
    ran = run(made, tmp_path / "out", *more)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("Error: ") == 1
    assert not (tmp_path / "out").exists()
    assert run(made, tmp_path / "control", "--top", "1").code == 0, "the control"


def test_options_about_images_need_images(made, tmp_path):
    ran = run(made, tmp_path / "out", "--streaming", images=False)
    assert ran.code == 2
    assert "need --images" in ran.err


@pytest.mark.parametrize("kind", ["ground", "decompose"])
@pytest.mark.parametrize("count", [31, 32])
def test_too_few_images_leave_nothing_and_more_images_go_on(made, tmp_path, kind, count):
    """The folder of parts of a refused run must not refuse the next run, with more images."""
    for number, part in enumerate(files(count)):
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "few" / f"{number}.png").write_bytes(part)
    images = ("--images", tmp_path / "few", "-o", tmp_path / "out")
    match kind:
        case "ground":
            ran = sith("ground", made / "clip", "--decomposition", made / "d", "--top", "1", *images)
        case "decompose":
            ran = sith("decompose", made / "clip", "--concepts", made / "words.txt", "--layers", "2", *images)
    if count == 32:
        assert ran.code == 0, ran.err
        return
    assert ran.code == 2
    assert "31 readable images" in ran.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.work").exists()
