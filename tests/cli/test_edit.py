"""``sith-hf edit``: gains by concept and by name."""

from __future__ import annotations

import pytest

from sith_hf.edits import EditSpec
from tests.support.cli import sith, succeeded

EDIT = ("edit", "{work}/clip", "--decomposition", "{work}/d", "-o", "{out}")
SEA = ("--suppress", "sea", "--threshold", "0.1")


def test_by_concept(scene, work):
    spec = EditSpec.from_pretrained(work / "spec")
    rows = scene.edit.data["vectors"]
    assert [{key: row[key] for key in spec.rows()[0]} for row in rows] == spec.rows()
    assert scene.edit.data["needs_yes"]
    # Gains multiply where one vector carries two concepts.
    assert {0.0, 2.5, -1.0} & set(spec.gain.tolist())
    assert set(spec.gain.tolist()) <= {0.0, 2.5, -1.0, -2.5}


def test_by_name(work, tmp_path):
    named = ("--layers", "2", "--heads", "1", "--vectors", "0,1", "--gain", "3", "--strength", "0.5")
    succeeded(sith("edit", work / "clip", "--decomposition", work / "d", *named, "-o", tmp_path / "spec"))
    spec = EditSpec.from_pretrained(tmp_path / "spec")
    assert spec.keys == [(2, 1, 0), (2, 1, 1)]
    assert spec.gain.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--suppress"),
        (("--layers", "0"), "--suppress"),
        ((*SEA, "--gain", "0"), "--gain"),
        ((*SEA, "--vectors", "0"), "--vectors"),
        (("--gain", "0"), "layers"),
        (("--suppress", "sea=nan"), "nan"),
        (("--amplify", "sea=1e999"), "inf"),
        (("--suppress", " =0"), "empty concept"),
        (("--invert", " "), "empty concept"),
        (("--invert", "sea=2"), "takes no gain"),
        (("--suppress", "sea", "--amplify", "SEA"), "two gains"),
        (("--suppress", "sea=1", "--threshold", "0.1"), "1"),
        (("--suppress", "qqq", "--near", "1"), "qqq"),
        (("--suppress", "sea", "--threshold", "2"), "2"),
        (("--suppress", "sea", "--near", "-1"), "-1"),
        ((*SEA, "--strength", "nan"), "nan"),
        ((*SEA, "--strength", "0"), "1"),
        (("--layers", "0", "--gain", "nan"), "nan"),
        (("--layers", "3", "--gain", "0"), "3"),
        (("--heads", "4", "--gain", "0"), "4"),
        (("--vectors", "-9", "--gain", "0"), "-9"),
    ],
)
def test_refused(refuses, words, named):
    refuses((*EDIT, *words), named)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("{work}/other", "--decomposition", "{work}/d", "--layers", "0", "--gain", "0"), "other"),
        (("{work}/clip", "--suppress", "sea"), "--decomposition"),
        (("{work}/clip", "--decomposition", "{work}/spec", "--suppress", "sea"), "spec"),
    ],
)
def test_refused_inputs(refuses, words, named):
    refuses(("edit", *words, "-o", "{out}"), named)


def test_the_command_that_the_refused_ones_are_made_from_is_not(work, tmp_path):
    words = (word.replace("{work}", str(work)).replace("{out}", str(tmp_path / "out")) for word in EDIT)
    succeeded(sith(*words, "--layers", "0", "--gain", "0"))
    assert (tmp_path / "out").is_dir()


def test_a_dry_run_shows_the_edit_and_writes_nothing(work, tmp_path):
    words = ("edit", work / "clip", "--decomposition", work / "d", "--suppress", "sea", "--top", "3")
    before = set(tmp_path.iterdir())
    data = succeeded(sith(*words, "--dry-run", "--json", "-o", tmp_path / "out")).data
    assert set(tmp_path.iterdir()) == before
    assert (data["spec"], data["needs_yes"], len(data["vectors"])) == (None, False, 3)
    assert data["impact"]["vectors"] == 3
    assert set(data["taken"]) == {"sea"}
    assert data["words"][0]["chosen"] == 3
    assert data["words"][0]["left_out"]
    shown = succeeded(sith(*words, "--dry-run"))
    assert "nothing was written" in shown.out
    assert "sea: cosine" not in shown.out
    assert shown.out.startswith("Suppresses sea, in 3 of 96 vectors of the vision tower: ")
    whole = succeeded(sith(*words, "--dry-run", "--details")).out
    assert "sea: cosine" in whole
    heading = whole.splitlines()[1]
    assert str(work / "clip") in heading
    assert heading.endswith("not known") or "better than chance: " in heading


def test_a_large_edit_asks(refuses, work, tmp_path):
    every = ("--layers", "0,1,2", "--gain", "0")
    refuses((*EDIT, *every), "add --yes")
    words = ("edit", work / "clip", "--decomposition", work / "d", *every)
    shown = succeeded(sith(*words, "--dry-run"))
    assert "needs --yes" in shown.out
    succeeded(sith(*words, "--yes", "-o", tmp_path / "out"))
    assert len(EditSpec.from_pretrained(tmp_path / "out")) == 96


@pytest.mark.parametrize(("words", "named"), [(("--top", "0"), "top"), (("--top", "2", "--threshold", "0.5"), "top")])
def test_top_is_checked(refuses, words, named):
    refuses((*EDIT, "--suppress", "sea", *words), named)


def test_without_a_folder_only_a_dry_run(refuses):
    refuses(("edit", "{work}/clip", "--decomposition", "{work}/d", "--suppress", "sea"), "-o")
