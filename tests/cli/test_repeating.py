"""Every command with an output folder: the same command again is already done; another result needs --overwrite."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from tests.support.cli import refused, sith, succeeded
from tests.support.evaluating import png
from tests.support.raw import tree

# A command, and the same command with other results.
COMMANDS = {
    "decompose": (
        ("decompose", "{work}/clip", "--dictionary", "{work}/d", "--layers", "-1", "--rank", "2"),
        ("--sparsity", "3"),
    ),
    "image-mean": (("image-mean", "{model}", "--data", "{tmp}/images.parquet"), ("--limit", "2")),
    "judge": (("judge", "{work}/d", "--topic", "water", "--concepts", "sea,ocean"), ("--topic", "wet")),
    "edit": (
        ("edit", "{work}/clip", "--decomposition", "{work}/d", "--layers", "0", "--heads", "1", "--gain", "0"),
        ("--gain", "2"),
    ),
    "save-edited": (("save-edited", "{work}/clip", "--spec", "{work}/spec"), ("--spec", "{tmp}/half")),
    "export-adapter": (
        ("export-adapter", "{work}/spec"),
        ("--architecture", "CLIPVisionModel"),
    ),
}


@pytest.fixture
def fill(work, checkpoints, tmp_path):
    """Make three pictures, and fill the paths of this test into a command."""
    pictures = [Image.new("RGB", (9, 9), colour) for colour in ("red", "green", "blue")]
    Dataset.from_dict({"image": pictures}).to_parquet(str(tmp_path / "images.parquet"))
    places = {"work": work, "tmp": tmp_path, "model": checkpoints.base("CLIPVisionModelWithProjection")}
    return lambda words: [part.format(**places) for part in words]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_again_and_another(work, fill, tmp_path, name):
    if name == "save-edited":
        numbers = ("--layers", "0", "--heads", "1", "--gain", "0.5")
        succeeded(sith("edit", work / "clip", "--decomposition", work / "d", *numbers, "-o", tmp_path / "half"))
    first, change = map(fill, COMMANDS[name])
    out = tmp_path / "out"
    fresh = succeeded(sith(*first, "-o", out))
    assert "already done" not in fresh.err
    before, whole = stamps(out), tree(out)

    again = succeeded(sith(*first, "-o", out))
    assert f"already done: {out} was not changed" in again.err
    assert again.out == fresh.out
    assert stamps(out) == before
    assert not out.with_name("out.work").exists()

    assert "--overwrite" in refused(sith(*first, *change, "-o", out))
    assert stamps(out) == before
    other = succeeded(sith(*first, *change, "-o", out, "--overwrite"))
    assert "already done" not in other.err
    assert tree(out) != whole


@pytest.mark.parametrize("name", ["decompose", "image-mean", "judge", "edit"])
def test_other_files_of_the_folder_stay(work, fill, tmp_path, name):
    """These write single files, and several of them may share a folder."""
    shutil.copy(work / "concepts.txt", tmp_path / "mine.txt")
    first = fill(COMMANDS[name][0])
    succeeded(sith(*first, "-o", tmp_path))
    assert (tmp_path / "mine.txt").read_bytes() == (work / "concepts.txt").read_bytes()


def test_a_dry_run_says_nothing_about_the_edit_that_is_there(work, fill, tmp_path):
    first = (*fill(COMMANDS["edit"][0]), "-o", tmp_path)
    succeeded(sith(*first))
    ran = succeeded(sith(*first, "--gain", "0.5", "--dry-run"))
    assert "already done" not in ran.err
    assert "nothing was written" in ran.out


@pytest.mark.parametrize("streaming", [(), ("--streaming",)], ids=["table", "stream"])
def test_pictures_that_changed_in_place_are_not_taken_for_done(fill, tmp_path, streaming):
    """datasets tells local files apart by their times, and streams not at all."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, red in (("a", 0), ("b", 200)):
        (pictures / f"{name}.png").write_bytes(png(red))
    command = (*fill(("image-mean", "{model}")), "--data", pictures, "-o", tmp_path / "out", *streaming)
    succeeded(sith(*command))
    stat, content = (pictures / "a.png").stat(), (pictures / "a.png").read_bytes()

    def put(content: bytes) -> None:
        (pictures / "a.png").write_bytes(content)
        os.utime(pictures / "a.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))

    put(png(100))
    assert "another image mean" in refused(sith(*command))
    put(content)
    assert "already done" in succeeded(sith(*command)).err


def test_a_damaged_result_is_not_taken_for_done(work, fill, tmp_path):
    first = fill(COMMANDS["decompose"][0])
    succeeded(sith(*first, "-o", tmp_path / "out"))
    file = tmp_path / "out" / "decomposition.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "--overwrite" in refused(sith(*first, "-o", tmp_path / "out"))
    assert file.read_bytes() == content
