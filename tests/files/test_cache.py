"""The cache of embeddings: what comes out is what went in, whatever lies in its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from sith_hf.files import EmbeddingCache
from sith_hf.files import cache as caching
from sith_hf.files.cache import CACHE_LAYOUT, cache_folder

FACTS = {"texts": "one", "text tower": "two"}
SHAPE = (5, 3)
ROWS = normalize(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture
def kept(tmp_path):
    """A cache with one list of embeddings."""
    made = EmbeddingCache(tmp_path / "home" / "embeddings", {"encoder": "tiny", "template": "a {}"})
    made.put(FACTS, ROWS)
    return made


def only(kept):
    """The one file of a cache."""
    (path,) = kept.folder.iterdir()
    return path


def test_what_goes_in_comes_out(kept, capsys):
    assert torch.equal(kept.get(FACTS, SHAPE), ROWS)
    assert [path.name for path in kept.folder.iterdir()] == [kept.lists()[0].file]
    assert len(kept.lists()[0].file) == 64 + len(".safetensors")
    assert (kept.lists()[0].concepts, kept.lists()[0].encoder, kept.lists()[0].template) == (5, "tiny", "a {}")
    assert kept.lists()[0].bytes == only(kept).stat().st_size
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("facts", [{}, {**FACTS, "texts": "other"}, {**FACTS, "device": "cuda"}])
def test_other_facts_are_another_list(kept, facts):
    assert kept.get(facts, SHAPE) is None
    kept.put(facts, ROWS.flip(0))
    assert torch.equal(kept.get(facts, SHAPE), ROWS.flip(0))
    assert torch.equal(kept.get(FACTS, SHAPE), ROWS)
    assert len(kept.lists()) == 2


@pytest.mark.parametrize("shape", [(4, 3), (5, 4), (3, 5)])
def test_another_shape_is_not_found(kept, shape):
    assert kept.get(FACTS, shape) is None


def test_what_decides_the_last_bits_is_a_fact(kept, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert kept.get(FACTS, SHAPE) is None


def truncate(path):
    os.truncate(path, path.stat().st_size - 4)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def foreign(path):
    save_file({"embeddings": ROWS.clone()}, path)


def not_unit(path):
    write(path, 2 * ROWS)


def not_finite(path):
    rows = ROWS.clone()
    rows[1, 2] = torch.nan
    write(path, rows)


def of_other_facts(path):
    other = EmbeddingCache(path.parent.parent / "other")
    other.put({}, ROWS.flip(0))
    os.replace(only(other), path)


def a_link(path):
    os.rename(path, path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def empty(path):
    path.write_bytes(b"")


def write(path, rows):
    """A sound file but for its rows."""
    text = caching._settled(FACTS)
    layout = replace(CACHE_LAYOUT, filename=path.name)
    caching.write_artifact(path.parent, layout, {"embeddings": rows}, {"facts": text, "about": {}})


DAMAGE = [truncate, flip, foreign, not_unit, not_finite, of_other_facts, a_link, a_pipe, empty]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_file_that_is_not_sound_is_ignored_and_replaced(kept, damage, capsys):
    path = only(kept)
    damage(path)
    assert kept.get(FACTS, SHAPE) is None
    kept.put(FACTS, ROWS)
    assert torch.equal(kept.get(FACTS, SHAPE), ROWS)
    assert not path.is_symlink()
    assert capsys.readouterr() == ("", "")


def test_the_damage_is_the_reason(kept):
    """The control: a file written by the same function with sound rows is found."""
    write(only(kept), ROWS.flip(0))
    assert torch.equal(kept.get(FACTS, SHAPE), ROWS.flip(0))


def a_file(home):
    home.mkdir()
    (home / "embeddings").write_text("mine")


def a_home_that_is_a_file(home):
    home.write_text("mine")


def a_linked_folder(home):
    home.mkdir()
    (home.parent / "target").mkdir()
    (home / "embeddings").symlink_to(home.parent / "target")


@pytest.mark.parametrize("block", [a_file, a_home_that_is_a_file, a_linked_folder], ids=lambda block: block.__name__)
def test_a_folder_that_cannot_be_used_is_one_note(block, tmp_path, capsys):
    block(tmp_path / "home")
    before = sorted(tmp_path.rglob("*"))
    kept = EmbeddingCache(tmp_path / "home" / "embeddings")
    for facts in (FACTS, {}):
        assert kept.get(facts, SHAPE) is None
        kept.put(facts, ROWS)
    assert kept.lists() == kept.clear() == []
    assert sorted(tmp_path.rglob("*")) == before
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("note: ")
    assert err.count("\n") == 1
    assert "SITH_HF_HOME" in err


@pytest.mark.parametrize("home", ["x" * 5000, "/dev/null", "/proc/nowhere"])
def test_an_impossible_folder_is_one_note(home, capsys):
    kept = EmbeddingCache(Path(home) / "embeddings")
    assert kept.get(FACTS, SHAPE) is None
    kept.put(FACTS, ROWS)
    assert kept.lists() == kept.clear() == []
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_one_note(kept, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sith_hf.files.atomic.os.fsync", full)
    kept.put({}, ROWS)
    kept.put({"other": "facts"}, ROWS)
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert len(list(kept.folder.iterdir())) == 1
    assert torch.equal(kept.get(FACTS, SHAPE), ROWS)


def test_use_is_noted_and_sorts_the_lists(kept):
    kept.put({}, ROWS)
    first, second = (kept.folder / item.file for item in kept.lists())
    os.utime(first, (1000, 1000))
    os.utime(second, (2000, 2000))
    assert [item.last_used for item in kept.lists()] == [2000, 1000]
    assert kept.get(FACTS, SHAPE) is not None
    assert min(item.last_used for item in kept.lists()) in (1000, 2000)
    assert max(item.last_used for item in kept.lists()) > 1_000_000_000


def test_clearing_leaves_what_is_not_ours(kept, tmp_path):
    kept.put({}, ROWS)
    truncate(kept.folder / kept.lists()[0].file)
    outside = tmp_path / "precious.safetensors"
    foreign(outside)
    others = [kept.folder / "notes.txt", kept.folder / f"{'b' * 64}.safetensors", kept.folder.parent / "mine"]
    for path in others:
        foreign(path)
    (kept.folder / f"{'c' * 64}.safetensors").symlink_to(outside)
    (kept.folder / f"{'d' * 64}.safetensors").mkdir()
    assert sorted(item.concepts or 0 for item in kept.lists()) == [0, 5]
    assert len(kept.clear()) == 2
    assert kept.lists() == []
    left = {path.name for path in kept.folder.iterdir()}
    assert left == {"notes.txt", *(f"{letter * 64}.safetensors" for letter in "bcd")}
    assert all(path.is_file() for path in (*others, outside))


def test_a_killed_writer_leaves_nothing_that_is_read(kept):
    script = (
        "import os, torch\nfrom pathlib import Path\nfrom sith_hf.files import EmbeddingCache, cache\n"
        "import sith_hf.files.atomic as atomic\natomic.os.replace = lambda *names: os._exit(9)\n"
        f"EmbeddingCache(Path({str(kept.folder)!r})).put({{}}, torch.eye(3))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert len(list(kept.folder.iterdir())) == 2
    assert kept.get({}, (3, 3)) is None
    assert len(kept.lists()) == 1
    kept.put({}, torch.eye(3))
    assert sorted(path.suffix for path in kept.folder.iterdir()) == [".safetensors", ".safetensors"]


def test_processes_share_it_without_a_lock(tmp_path):
    script = (
        "import torch\nfrom pathlib import Path\nfrom sith_hf.files import EmbeddingCache\n"
        f"kept = EmbeddingCache(Path({str(tmp_path / 'c')!r}))\nrows = torch.eye(300)\n"
        "for _ in range(8):\n    kept.put({}, rows)\n    found = kept.get({}, (300, 300))\n"
        "    assert found is None or torch.equal(found, rows)\nassert torch.equal(kept.get({}, (300, 300)), rows)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[1] for process in running] == ["", ""]
    assert [process.returncode for process in running] == [0, 0]
    assert len(list((tmp_path / "c").iterdir())) == 1


@pytest.mark.parametrize(
    ("home", "folder"), [("/a/b", "/a/b/embeddings"), ("~/c", "{home}/c/embeddings"), ("", "{hf}/sith_hf/embeddings")]
)
def test_where_it_is(home, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("SITH_HF_HOME", home)
    assert cache_folder() == Path(folder.format(home=os.path.expanduser("~"), hf=constants.HF_HOME))


def test_tests_never_use_the_users_cache():
    assert cache_folder().is_relative_to(os.environ["SITH_HF_HOME"])
    assert "sith-hf-tests-" in os.environ["SITH_HF_HOME"]
