"""Two processes share one job: they write the bytes of one, and stop together when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sith_hf.core.distributed import SINGLE, Processes, join_processes, launched_world_size
from sith_hf.errors import InputError
from sith_hf.files.resumable import ResumableJob
from sith_hf.towers import text_encoder as encoding
from tests.support import evaluating, tiny
from tests.support.forking import ended
from tests.support.made import tiny_concepts, tiny_editor

pytestmark = pytest.mark.slow

decompose = import_module("sith_hf.decomposition.decompose")

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The reports of two processes that run tests/support/sharing.py, and how they ended."""
    folder = tmp_path_factory.mktemp("shared")
    tiny.save_clip(folder / "clip")
    rows = evaluating.dataset([*range(0, 250, 5), None, b"no picture"])
    rows.save_to_disk(folder / "pictures")
    (folder / "shards").mkdir()
    for index in range(4):
        rows.shard(4, index).to_parquet(folder / "shards" / f"{index}.parquet")
    command = [sys.executable, "-m", "tests.support.sharing", str(folder), str(free_port())]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = ended(json.loads((folder / "codes.json").read_text()), folder)
    found = []
    for rank, one in enumerate(said):
        path = folder / f"found-{rank}.json"
        assert path.is_file(), one.err
        found.append(json.loads(path.read_text()))
    return folder, found, said


def test_there_are_two_of_them(shared):
    _, found, _ = shared
    for one in found:
        assert one["number"] == 2
        assert one["joined again"]
        assert one["together"] == [0, 10]
        assert one["on main"] == "from 0"
        assert one["after that"] == [0, 1]


def test_an_error_in_one_is_an_error_in_all(shared):
    _, found, _ = shared
    for one in found:
        assert one["ours"] == one["on main only"] == ["InputError", "a bad thing"]
        assert "lasso" in one["extra"][1]
    main, other = found
    assert main["unexpected"][0] == "RuntimeError"
    assert main["unexpected"][1].endswith("Cut: a bug")
    assert other["unexpected"] == ["Cut", "a bug"]


def test_they_share_the_work_and_one_alone_gives_the_same(shared):
    _, found, _ = shared
    first, second = (set(one["shares"]) for one in found)
    assert first
    assert second
    assert not first & second
    for one in found:
        assert one["encodes alike"]


@pytest.mark.parametrize("kind", ["table", "stream", "shards"])
def test_they_ground_the_same_as_one(shared, kind):
    _, found, _ = shared
    two, one = found[0][f"grounded {kind}"]
    assert two == one == found[1][f"grounded {kind}"][0]
    assert one != found[0]["grounded shards" if kind == "table" else "grounded table"][1], "the check sees other images"


@pytest.mark.parametrize("kind", ["table", "stream", "shards"])
def test_they_find_the_same_mean_as_one(shared, kind):
    _, found, _ = shared
    for one in found:
        same, count, skipped, images = one[kind]
        assert same
        assert images
        assert count == 50
        assert sum(skipped.values()) == 2


def test_a_refusal_is_one_message_and_exit_code_2(shared):
    folder, found, said = shared
    assert [one["code"] for one in found] == [2, 2]
    (_, _, loud), (_, out, quiet) = said
    assert loud.count("Error: ") == 1
    assert "layer 9" in loud
    assert (out, quiet) == ("", "")
    assert not (folder / "none").exists()
    assert not (folder / "none.work").exists()


def test_a_full_disk_ends_all(shared):
    folder, found, _ = shared
    for one in found:
        assert one["full disk"][0] == "OutputError"
        assert "No space left" in one["full disk"][1]
    assert not (folder / "full").exists()
    assert list((folder / "full.work").rglob("*.part"))


def test_a_process_that_dies_ends_the_others_and_its_work_is_resumed(shared, monkeypatch):
    folder, found, said = shared
    assert [one.code for one in said] == [0, -signal.SIGKILL]
    assert found[0]["killed"][0] == "SithError"
    assert "another of the 2 processes" in found[0]["killed"][1]
    assert "killed" not in found[1]
    assert not (folder / "killed").exists()
    kept = sorted((folder / "killed.work").rglob("*.part"))
    assert kept

    monkeypatch.setattr(encoding, "BATCH_TOKENS", 60)
    monkeypatch.setattr(decompose, "ROWS", 32)
    monkeypatch.setattr(decompose, "DRAWS", 256)
    editor, concepts, made = tiny_editor(folder), tiny_concepts(), []
    real = decompose.factored_svd
    monkeypatch.setattr(decompose, "factored_svd", lambda *factors: made.append(1) or real(*factors))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ResumableJob.beside(folder / "killed") as job:
            editor.decompose(concepts, job=job).save_pretrained(folder / "killed")
        assert 0 < len(made) < 6
        editor.decompose(concepts).save_pretrained(folder / "alone")
    finally:
        torch.set_num_threads(threads)
    assert len(made) > 6  # the control: alone it makes all
    one, other = (folder / name / "decomposition.safetensors" for name in ("killed", "alone"))
    assert one.read_bytes() == other.read_bytes()


def test_a_single_process_imports_nothing_and_raises_the_original_error(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert join_processes() is SINGLE
    assert SINGLE.is_main
    assert SINGLE.all_gather(lambda: 3) == [3]
    with pytest.raises(ZeroDivisionError):
        SINGLE.on_main(lambda: 1 // 0)
    script = "import sys; from sith_hf.core.distributed import join_processes; join_processes()"
    script += "; print('accelerate' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest.mark.parametrize(("said", "number"), [("2", 2), ("1", 1), ("0", 1), ("", 1), ("many", 1)])
def test_what_launchers_say(monkeypatch, said, number):
    monkeypatch.setenv("WORLD_SIZE", said)
    assert launched_world_size() == number


def test_fewer_processes_than_were_started_are_refused(monkeypatch):
    """What accelerate takes for one process would have each of two write the same files."""
    import accelerate

    class Lonely:
        num_processes, process_index, is_main_process = 1, 0, True

        def __init__(self, **options):
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(accelerate, "PartialState", Lonely)
    with pytest.raises(InputError, match="started 2 processes"):
        join_processes()
    monkeypatch.setattr(Lonely, "num_processes", 2)
    monkeypatch.delenv("MASTER_ADDR", raising=False)  # nothing to wait for at exit
    assert join_processes() == Processes(2, 0)  # the control
