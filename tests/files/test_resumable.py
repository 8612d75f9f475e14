"""An interrupted job resumes, ends in the same bytes, and uses nothing of another job."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sith_hf.errors import InputError, OutputError, TemporaryError
from sith_hf.files import resumable as job
from sith_hf.files import write_whole
from sith_hf.files.resumable import LOCK, SUFFIX, ResumableJob
from sith_hf.towers import text_encoder as encoding
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.raw import read_raw, write_raw

decompose = import_module("sith_hf.decomposition.decompose")

NAMES = ["a", "b", "c"]
FACTS_GIVEN = {"weights": "w", "layers": [1, 2]}


class Stop(Exception):
    """The run ends here."""


def make(log: list[str], stop_at: str | None = None):
    """A maker of parts that records their names."""

    def one(name):
        if name == stop_at:
            raise Stop
        log.append(name)
        return {"number": torch.tensor(NAMES.index(name)), "none": torch.zeros(0, 3)}

    return one


def interrupted(output: Path, facts=FACTS_GIVEN, stop_at="c") -> list[str]:
    """A run that stops at a part, and the parts that it made."""
    log: list[str] = []
    with pytest.raises(Stop), ResumableJob.beside(output) as kept:
        list(kept.parts("job", facts, NAMES, make(log, stop_at)))
    return log


def part_file(output: Path, name: str) -> Path:
    return output.with_name(f"{output.name}.work") / "job" / f"{name}{SUFFIX}"


def resumed(output: Path, facts=FACTS_GIVEN) -> list[str]:
    """A run to the end, and the parts that it made anew."""
    log: list[str] = []
    with ResumableJob.beside(output) as kept:
        found = dict(kept.parts("job", facts, NAMES, make(log)))
    assert {name: int(part["number"]) for name, part in found.items()} == {"a": 0, "b": 1, "c": 2}
    assert all(part["none"].shape == (0, 3) for part in found.values())
    assert not list(output.parent.glob("*.work"))
    return log


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What came of jobs that were killed; see tests/support/killing.py."""
    folder = tmp_path_factory.mktemp("killed")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.killing", str(folder), "7"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["decompose", "table", "stream"])
def test_killed_anywhere_it_repeats_one_part_at_most_and_ends_in_the_same_bytes(killed, job):
    size, *stories = killed[job]
    assert size["parts"] > 8
    assert sum(story["kills"] for story in stories) >= len(stories)
    for story in stories:
        assert story["same"]
        assert story["left"] == []
        assert story["late"] or story["repeated"] <= story["kills"]
    # The control: who began anew after each kill would repeat about half of the parts each time.
    assert sum(story["repeated"] for story in stories) < sum(story["kills"] for story in stories) * size["parts"] / 4


def test_parts_are_made_once(tmp_path):
    assert interrupted(tmp_path / "out") == ["a", "b"]
    assert resumed(tmp_path / "out") == ["c"]
    assert resumed(tmp_path / "out") == NAMES  # the control: nothing is kept of a run that ended well


def test_pieces_are_made_once(tmp_path):
    def pieces(log, stop_at=None):
        def rest(found):
            for name in NAMES:
                if name not in found:
                    yield name, make(log, stop_at)(name)

        return rest

    log: list[str] = []
    with pytest.raises(Stop), ResumableJob.beside(tmp_path / "out") as kept:
        list(kept.pieces("job", {}, pieces(log, "b")))
    with ResumableJob.beside(tmp_path / "out") as kept:
        found = dict(kept.pieces("job", {}, pieces(log)))
    assert log == NAMES
    assert [int(found[name]["number"]) for name in NAMES] == [0, 1, 2]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log: list[str] = []
    assert len(list(ResumableJob().parts("job", {}, NAMES, make(log)))) == 3
    assert log == NAMES
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "swapped", "folder"])
def test_a_damaged_part_is_made_again(tmp_path, damage):
    output = tmp_path / "out"
    interrupted(output)
    path = part_file(output, "a")
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "folder":
        path.mkdir()
        path.rmdir()
    elif damage == "swapped":
        path.write_bytes(part_file(output, "b").read_bytes())
    else:
        content[-1] ^= 1
        path.write_bytes({"cut": content[:-1], "bit": content, "empty": b""}[damage])
    assert resumed(output) == ["a", "c"]


@pytest.mark.parametrize(
    ("facts", "named"),
    [({**FACTS_GIVEN, "weights": "v"}, "weights"), ({**FACTS_GIVEN, "layers": [1]}, "layers"), ({}, "layers, weights")],
)
def test_parts_of_another_job_are_refused_and_stay(tmp_path, facts, named):
    output = tmp_path / "out"
    interrupted(output)
    with pytest.raises(InputError, match=f"differs in {named}:"), ResumableJob.beside(output) as kept:
        list(kept.parts("job", facts, NAMES, make([])))
    assert resumed(output) == ["c"]


def test_another_release_of_a_library_is_another_job(tmp_path, monkeypatch):
    interrupted(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(job, "library_versions", lambda: {"torch": "0"})
        with pytest.raises(InputError, match="libraries"), ResumableJob.beside(tmp_path / "out") as kept:
            list(kept.parts("job", FACTS_GIVEN, NAMES, make([])))
    assert resumed(tmp_path / "out") == ["c"]


@pytest.mark.parametrize(
    ("error", "kept"), [(InputError("of no use"), False), (TemporaryError("no memory"), True), (Stop(), True)], ids=repr
)
def test_parts_go_with_an_input_that_their_making_refuses(tmp_path, error, kept):
    output = tmp_path / "out"

    def refuses(name):
        if name == "c":
            raise error
        return make([])(name)

    with pytest.raises(type(error)), ResumableJob.beside(output) as job:
        list(job.parts("job", FACTS_GIVEN, NAMES, refuses))
    assert (tmp_path / "out.work").exists() == kept
    assert resumed(output) == (["c"] if kept else NAMES)


def test_what_is_refused_later_costs_no_part(tmp_path):
    """A rule that chooses nothing, a misspelt dataset, a next step that refuses its own input."""
    output = tmp_path / "out"

    def refuses(name):
        raise InputError("of no use")

    def run(then):
        with ResumableJob.beside(output) as job:
            assert len(list(job.parts("job", FACTS_GIVEN, NAMES, make([])))) == 3
            list(then(job))

    with pytest.raises(InputError, match="of no use"):
        run(lambda job: refuses("a rule"))
    with pytest.raises(InputError, match="of no use"):
        run(lambda job: job.parts("next", {}, NAMES, refuses))
    assert resumed(output) == []


def test_another_number_of_threads_is_another_job(tmp_path, monkeypatch):
    interrupted(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 97)
        with pytest.raises(InputError, match="OMP_NUM_THREADS"), ResumableJob.beside(tmp_path / "out") as kept:
            list(kept.parts("job", FACTS_GIVEN, NAMES, make([])))
    assert resumed(tmp_path / "out") == ["c"]


def test_without_a_finished_part_any_job_may_begin(tmp_path):
    interrupted(tmp_path / "out", stop_at="a")
    assert not list(tmp_path.iterdir())
    assert resumed(tmp_path / "out", {"weights": "v"}) == NAMES


def test_a_part_with_damaged_facts_is_made_again(tmp_path):
    output = tmp_path / "out"
    interrupted(output)
    path = part_file(output, "a")
    path.write_bytes(path.read_bytes().replace(b'weights\\": \\"w', b'weights\\": \\"v'))
    assert resumed(output) == ["a", "c"]


def test_parts_whose_facts_are_lost_are_made_again(tmp_path):
    output = tmp_path / "out"
    interrupted(output)
    for name in ("a", "b"):
        tensors, metadata = read_raw(part_file(output, name))
        del metadata["facts"], metadata["checksums"]
        write_raw(part_file(output, name), tensors, metadata)
    (part_file(output, "a").parent / "job.json").write_text("left by an earlier release")
    assert resumed(output, {"weights": "v"}) == NAMES


def test_a_second_run_is_refused_and_the_first_continues(tmp_path):
    output = tmp_path / "out"
    with ResumableJob.beside(output) as kept:
        list(kept.parts("job", FACTS_GIVEN, NAMES, make([])))
        with pytest.raises(InputError, match="another run"), ResumableJob.beside(output):
            pytest.fail("two runs at once")
        assert part_file(output, "a").is_file()
    assert not list(tmp_path.iterdir())


def test_a_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    output = tmp_path / "out"
    interrupted(output)
    lock = output.with_name("out.work") / LOCK
    assert lock.is_file()
    # The control: a live one is.
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run"), ResumableJob.beside(output):
            pytest.fail("two runs at once")
    assert resumed(output) == ["c"]


def test_a_lock_that_its_owner_takes_away_meanwhile_is_not_taken_for_held(tmp_path, monkeypatch):
    """The first run ends between the second's opening of the file and its locking of it."""
    lock, real = tmp_path / "out.work" / LOCK, fcntl.flock

    def flock(descriptor, how):
        lock.unlink()
        real(descriptor, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with pytest.raises(InputError, match="another run"), ResumableJob.beside(tmp_path / "out"):
            pytest.fail("a lock of no name")
    with ResumableJob.beside(tmp_path / "out"):
        assert lock.is_file()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_reported_once_and_costs_nothing_that_was_finished(tmp_path, monkeypatch, call):
    output, real, log = tmp_path / "out", getattr(os, call), []

    def full(*arguments):
        if log == NAMES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OutputError, match=r"No space left.*kept in"), ResumableJob.beside(output) as kept:
            list(kept.parts("job", FACTS_GIVEN, NAMES, make(log)))
    assert log == NAMES
    assert sorted(path.name for path in part_file(output, "a").parent.iterdir()) == [f"a{SUFFIX}", f"b{SUFFIX}"]
    assert resumed(output) == ["c"]


def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="something else"), ResumableJob.beside(tmp_path / "out"):
        pytest.fail("somebody else's folder")
    with ResumableJob.beside(tmp_path / "other"):
        (tmp_path / "other.work" / "thesis.tex").write_text("mine")
    assert [path.read_text() for path in tmp_path.glob("*/thesis.tex")] == ["mine", "mine"]


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "file/../new/\0"])
def test_an_impossible_output_is_refused_before_the_work(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"), ResumableJob.beside(tmp_path / place):
        pytest.fail("no place to write to")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_that_were_made_go_again(tmp_path):
    with pytest.raises(Stop), ResumableJob.beside(tmp_path / "a" / "b" / "out"):
        raise Stop
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    return tiny_editor(folder), tiny_editor(folder, seed=5), tiny_concepts()


def explained(editor, concepts, output, **settings):
    with ResumableJob.beside(output) as kept:
        result = editor.decompose(concepts, job=kept, **settings)
        result.save_pretrained(output)
    return (output / "decomposition.safetensors").read_bytes()


def test_cutting_the_work_changes_nothing_in_the_result(scene, tmp_path, monkeypatch):
    """Not by a bit where it is cut alike, and not beyond rounding where it is cut otherwise."""
    editor, _, concepts = scene
    editor.decompose(concepts).save_pretrained(tmp_path / "whole")
    whole = (tmp_path / "whole" / "decomposition.safetensors").read_bytes()
    assert explained(editor, concepts, tmp_path / "kept") == whole
    monkeypatch.setattr(decompose, "DRAWS", 128)
    one = editor.decompose(concepts)
    monkeypatch.setattr(decompose, "ROWS", 32)
    monkeypatch.setattr(encoding, "BATCH_TOKENS", 60)
    other = editor.decompose(concepts)
    assert other.texts == one.texts
    assert torch.equal(other.concept, one.concept)
    for name in ("singular_values", "energy", "write", "read", "weight", "fidelity", "coherence", "ceiling"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("weights", "weights"),
        ("dictionary", "texts"),
        ("sparsity", "sparsity"),
        ("layers", "layers"),
        ("mean", "image mean"),
        ("poles", "poles"),
    ],
)
def test_a_changed_input_of_decompose_is_refused(scene, tmp_path, monkeypatch, change, named):
    from sith_hf.concepts.dictionary import ConceptDictionary
    from sith_hf.pursuit.pursuit import Pursuit

    editor, stranger, concepts = scene
    monkeypatch.setattr(decompose, "ROWS", 32)
    monkeypatch.setattr(decompose, "DRAWS", 128)
    output = tmp_path / "out"
    real = torch.linalg.svd

    def stops(*arguments, **options):
        if list((tmp_path / "out.work" / "decomposition").glob(f"*{SUFFIX}")):
            raise Stop
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "svd", stops)
        with pytest.raises(Stop):
            explained(editor, concepts, output)
    settings = {
        "sparsity": {"pursuit": Pursuit(sparsity=3)},
        "layers": {"layers": [-1]},
        "mean": {"image_mean": torch.full((24,), 0.1)},
        "poles": {"poles": "+"},
    }.get(change, {})
    other = ConceptDictionary.from_texts([*concepts.texts, "one more"]) if change == "dictionary" else concepts
    if change == "weights":
        encoded = editor.encode(concepts)
        with pytest.raises(InputError, match=f"differs in .*{named}"), ResumableJob.beside(output) as kept:
            decompose.decompose(stranger.tower, encoded, job=kept)
    else:
        with pytest.raises(InputError, match=f"differs in .*{named}"):
            explained(editor, other, output, **settings)
    assert not output.exists()
    editor.decompose(concepts).save_pretrained(tmp_path / "whole")
    assert explained(editor, concepts, output) == (tmp_path / "whole" / "decomposition.safetensors").read_bytes()


def test_embeddings_that_are_not_finite_are_not_kept(scene, tmp_path):
    from tests.support.tiny import byte_tokenizer, clip_model

    model = clip_model()
    with torch.no_grad():
        model.text_projection.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="not finite"), ResumableJob.beside(tmp_path / "out") as kept:
        encoding.encode_texts(model, byte_tokenizer(tmp_path / "tokenizer"), ["a", "b"], job=kept)
    assert not (tmp_path / "out.work").exists()


def test_working_folders_of_a_killed_run_go(tmp_path):
    output = tmp_path / "out"
    interrupted(output)
    for place in (tmp_path, output, output.with_name("out.work") / "job"):
        (place / ".sith-hf-work.abcdefgh.partial").mkdir(parents=True)
        (place / ".sith-hf-work.abcdefgh.partial" / "lock").touch()
        (place / ".sith-hf-work.abcdefgh.partial" / "new").write_bytes(b"half")
    (output / "mine.partial").write_text("mine")
    assert resumed(output) == ["c"]
    assert [path.name for path in output.iterdir()] == ["mine.partial"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_artifacts_know_nothing_of_it(scene, tmp_path):
    """What is in the work folder is swept up, not what stands beside it."""
    editor, _, concepts = scene
    (tmp_path / "out").mkdir()
    write_whole(tmp_path / "out" / "notes.txt", b"mine")
    explained(editor, concepts, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"notes.txt", "decomposition.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_ours_is_refused_and_kept(tmp_path):
    foreign = tmp_path / "out.work"
    (foreign / "sub").mkdir(parents=True)
    (foreign / "lock").write_text("somebody's own")
    (foreign / "sub" / "film.part").write_text("precious")
    with pytest.raises(InputError, match="something else"), ResumableJob.beside(tmp_path / "out"):
        pass
    assert (foreign / "sub" / "film.part").read_text() == "precious"
    assert (foreign / "lock").read_text() == "somebody's own"


def test_a_file_in_the_place_of_the_work_folder_is_named(tmp_path):
    (tmp_path / "out.work").write_text("mine")
    with pytest.raises(InputError, match=r"out\.work .*is a file"), ResumableJob.beside(tmp_path / "out"):
        pass
    assert (tmp_path / "out.work").read_text() == "mine"
