"""A file under its final name is whole and on disk; only leftovers of killed processes are removed."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sith_hf.errors import InputError, OutputError
from sith_hf.files import atomic, new_folder, scratch_folder, write_whole

ROOT = Path(__file__).parents[2]
PAIR = ("decomposition.safetensors", "dictionary.safetensors")


class Stop(Exception):
    """The block ends here."""


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """With and without an exchange of two names by the kernel."""
    if request.param == "renames":

        def none(*args, **kwargs):
            raise OSError(errno.ENOENT, "no C library")

        monkeypatch.setattr(ctypes, "CDLL", none)
    elif sys.platform != "linux":
        pytest.skip("only Linux exchanges two names")
    return request.param


def write_pair(folder: Path, content: str) -> None:
    with new_folder(folder, keep_others=True, overwrite=True) as work:
        for name in PAIR:
            (work / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def old_pair(folder: Path, *others: str) -> dict[str, str]:
    """An earlier pair, with other files in the same folder."""
    write_pair(folder, "old")
    for name in others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    return contents(folder)


class TestAPair:
    """Two files are replaced together; others stay; a failure changes nothing."""

    @pytest.mark.parametrize("others", [("notes.txt", ".hidden"), ("deep/notes.txt",)], ids=["flat", "deep"])
    @pytest.mark.parametrize("at", [1, 2])
    @pytest.mark.parametrize("fault", [OSError(errno.EIO, "broken disk"), KeyboardInterrupt()], ids=["disk", "Ctrl-C"])
    def test_a_failing_rename_changes_nothing(self, tmp_path, monkeypatch, way, others, at, fault):
        before, calls = old_pair(tmp_path / "out", *others), []
        for name in ("rename", "replace"):
            real = getattr(os, name)

            def fails(*args, real=real, **kwargs):
                calls.append(args)
                if len(calls) == at:
                    raise fault
                return real(*args, **kwargs)

            monkeypatch.setattr(os, name, fails)
        if way == "exchange" and others[0] == "notes.txt":
            # An exchange is one step, in which no file is renamed.
            write_pair(tmp_path / "out", "new")
            assert contents(tmp_path / "out") == before | dict.fromkeys(PAIR, "new")
        else:
            raised = OutputError if isinstance(fault, OSError) else KeyboardInterrupt
            with pytest.raises(raised, match="nothing was changed there" if raised is OutputError else None):
                write_pair(tmp_path / "out", "new")
            assert contents(tmp_path / "out") == before
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("others", [("notes.txt", ".hidden"), ("deep/notes.txt",)], ids=["flat", "deep"])
    def test_others_stay(self, tmp_path, way, others):
        before = old_pair(tmp_path / "out", *others)
        (tmp_path / "out" / "link").symlink_to("/nowhere")
        os.chmod(tmp_path / "out", 0o750)
        write_pair(tmp_path / "out", "new")
        assert contents(tmp_path / "out") == before | dict.fromkeys(PAIR, "new")
        assert os.readlink(tmp_path / "out" / "link") == "/nowhere"
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
        assert all((tmp_path / "out" / name).stat().st_nlink == 1 for name in before)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_block_that_fails_changes_nothing(self, tmp_path):
        before = old_pair(tmp_path / "out")

        def half() -> None:
            with new_folder(tmp_path / "out", keep_others=True, overwrite=True) as work:
                (work / PAIR[0]).write_text("new")
                raise Stop

        with pytest.raises(Stop):
            half()
        assert contents(tmp_path / "out") == before
        with pytest.raises(Stop), new_folder(tmp_path / "a" / "b", keep_others=True, overwrite=True):
            raise Stop
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_the_current_folder_stays_the_current_folder(self, tmp_path, monkeypatch, way):
        old_pair(tmp_path)
        monkeypatch.chdir(tmp_path)
        write_pair(Path(), "new")
        # A shell there would see no files if another folder had taken its name.
        assert sorted(os.listdir()) == list(PAIR)
        assert contents(tmp_path) == dict.fromkeys(PAIR, "new")

    def test_a_folder_that_is_being_made_within_is_not_mistaken(self, tmp_path, way):
        """A folder within may be the working folder of another process."""
        old_pair(tmp_path / "out")
        with new_folder(tmp_path / "out" / "edited") as inner:
            write_pair(tmp_path / "out", "new")
            (inner / "weights").write_text("whole")
        assert contents(tmp_path / "out") == dict.fromkeys(PAIR, "new") | {"edited/weights": "whole"}


class TestReplacing:
    @pytest.mark.parametrize("before", ["missing", "empty"])
    def test_a_folder_that_another_process_fills_meanwhile_is_not_replaced(self, tmp_path, way, before):
        target = tmp_path / "out"
        if before == "empty":
            target.mkdir()

        def fill(content):
            with new_folder(target) as work:
                (work / "weights").write_text("mine")
                with new_folder(target) as other:
                    (other / "weights").write_text(content)

        with pytest.raises(InputError, match="already has another weights"):
            fill("theirs")
        assert contents(target) == {"weights": "theirs"}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        # The control: the same content is no conflict.
        (target / "weights").unlink()
        fill("mine")
        assert contents(target) == {"weights": "mine"}

    def test_an_error_within_names_the_folder_that_was_asked_for(self, tmp_path):
        def fill():
            with new_folder(tmp_path / "out") as work:
                (work / "file").touch()
                write_whole(work / "file" / "below", b"")

        with pytest.raises(OutputError) as caught:
            fill()
        assert str(caught.value).startswith(f"{tmp_path / 'out' / 'file' / 'below'} could not be written")

    def test_a_folder_that_is_filled_at_the_last_moment_is_not_replaced(self, tmp_path, monkeypatch, way):
        target = tmp_path / "out"
        target.mkdir()
        real = atomic._replace

        def late(*args):
            (target / "theirs").write_text("theirs")
            real(*args)

        monkeypatch.setattr(atomic, "_replace", late)

        def fill():
            with new_folder(target) as work:
                (work / "weights").write_text("mine")

        with pytest.raises(OutputError, match="could not be written"):
            fill()
        assert contents(target) == {"theirs": "theirs"}

    def test_no_moment_without_a_folder(self, tmp_path, monkeypatch, way):
        target, gaps = tmp_path / "out", []
        target.mkdir()
        (target / "old.txt").write_text("old")
        for name in ("rename", "replace"):
            real = getattr(os, name)

            def watched(*args, real=real, **kwargs):
                result = real(*args, **kwargs)
                gaps.append(not target.exists())
                return result

            monkeypatch.setattr(os, name, watched)
        with new_folder(target, overwrite=True) as work:
            (work / "new.txt").write_text("new")
        assert contents(target) == {"new.txt": "new"}
        # The control: between the two renames there is one.
        assert any(gaps) == (way == "renames")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_everything_is_synced_before_its_name_and_the_name_after(self, tmp_path, monkeypatch):
        real_fsync, real_rename, log = os.fsync, os.rename, []

        def fsync(descriptor):
            log.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
            real_fsync(descriptor)

        def rename(old, new):
            log.append("rename")
            real_rename(old, new)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(os, "replace", rename)
        with new_folder(tmp_path / "out") as work:
            (work / "a").write_text("a")
            (work / "deep").mkdir()
            (work / "deep" / "b").write_text("b")
        at = log.index("rename")
        assert sorted(log[:at]) == ["a", "b", "deep", "new"]
        assert log[at + 1 :] == [tmp_path.name]
        log.clear()
        write_whole(tmp_path / "made" / "c", b"c")
        assert log == ["new", "rename", "made", tmp_path.name]

    def test_a_disk_that_fails_behind_the_rename_is_reported_truly(self, tmp_path, monkeypatch):
        real = os.fsync

        def fsync(descriptor):
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.EIO, "broken disk")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError, match="was written, but it may not be on the disk"):
            write_whole(tmp_path / "a", b"a")
        assert (tmp_path / "a").read_bytes() == b"a"

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
    def test_a_file_system_that_syncs_no_folder_is_none_that_fails(self, tmp_path, monkeypatch, code):
        real = os.fsync

        def fsync(descriptor):
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(code, "not here")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        write_whole(tmp_path / "a", b"a")
        assert (tmp_path / "a").read_bytes() == b"a"


def test_a_file_that_comes_and_goes_meanwhile_does_not_bring_the_old_pair_back(tmp_path, monkeypatch):
    write_pair(tmp_path / "out", "old")
    (tmp_path / "out" / "other").write_text("kept")
    link, rename = os.link, os.rename

    def link_beside_a_writer(source, target, **options):
        (tmp_path / "out" / "late").write_text("short-lived")
        link(source, target, **options)

    def rename_too_late(source, target):
        if Path(source).name == "late":
            raise FileNotFoundError(errno.ENOENT, "removed again")
        rename(source, target)

    monkeypatch.setattr(os, "link", link_beside_a_writer)
    monkeypatch.setattr(os, "rename", rename_too_late)
    write_pair(tmp_path / "out", "new")
    found = contents(tmp_path / "out")
    assert {found[name] for name in PAIR} == {"new"}
    assert found["other"] == "kept"


SCRATCH = """
import sys
from sith_hf.files import scratch_folder
with scratch_folder() as work:
    (work / "half").write_text("half")
    print(work.parent, flush=True)
    sys.stdin.read()
"""
WRITING = """
import sys
from pathlib import Path
from sith_hf.files import write_whole
def content(file):
    file.write(b"half")
    print("here", flush=True)
    sys.stdin.read()
write_whole(Path(sys.argv[1]), content)
"""


def started(script: str, *arguments: object, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A process that has come to its first line, and that line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


class TestSweeping:
    def test_scratch_folders_of_the_dead_go_and_those_of_the_living_stay(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        process, line = started(SCRATCH, TMPDIR=str(tmp_path))
        try:
            left = Path(line)
            assert left.parent == tmp_path
            with scratch_folder() as ours:
                assert (left / "new" / "half").is_file()  # the control: it lives
                assert ours.is_dir()
        finally:
            process.kill()
            process.communicate()
        assert (left / "new" / "half").is_file()
        with scratch_folder() as ours:
            assert not left.exists()
            assert ours.is_dir()
        assert not list(tmp_path.iterdir())

    def test_a_half_written_file_goes_with_the_next(self, tmp_path):
        process, _ = started(WRITING, tmp_path / "a")
        try:
            write_whole(tmp_path / "b", b"b")
            assert len(list(tmp_path.iterdir())) == 2  # the control: it lives
        finally:
            process.kill()
            process.communicate()
        write_whole(tmp_path / "a", b"a")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]

    def test_an_empty_folder_goes_at_once(self, tmp_path):
        """A kill before the lock leaves one; the control, with something in it, may belong to a living process."""
        empty, full = tmp_path / ".sith-hf-work.a.partial", tmp_path / ".sith-hf-work.b.partial"
        empty.mkdir()
        (full / "new").mkdir(parents=True)
        write_whole(tmp_path / "file", b"x")
        assert (empty.exists(), full.exists()) == (False, True)

    def test_the_lock_is_removed_last(self, tmp_path, monkeypatch):
        """A run that is killed while it removes its folder must leave a lock, by which the next run finds it."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "old").write_text("old")
        beside, unlink = [], os.unlink

        def watched(path, **options):
            if os.path.basename(path) == "lock":
                (work,) = tmp_path.glob(".sith-hf-work.*")
                beside.append(sorted(os.listdir(work)))
            unlink(path, **options)

        monkeypatch.setattr(os, "unlink", watched)
        with new_folder(tmp_path / "folder", overwrite=True) as folder:
            (folder / "new").write_text("new")
        assert beside == [["lock"]]

    @pytest.mark.parametrize("name", ["sith-card-abcdefgh", ".sith-hf-work.abcdefgh.partial"])
    def test_folders_without_a_lock_go_when_they_are_old(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / name / "new").mkdir(parents=True)
        with scratch_folder():
            assert (tmp_path / name).is_dir()
        os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
        with scratch_folder():
            assert not (tmp_path / name).exists()

    @pytest.mark.parametrize(
        "name", ["sith-hf-results", "sith-hf-building", ".sith-hf-work", "sith-card-x", "x.partial"]
    )
    def test_what_users_name_stays_however_old(self, tmp_path, monkeypatch, name):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        os.utime(tmp_path / name, (1_000_000_000, 1_000_000_000))
        with scratch_folder():
            pass
        assert (tmp_path / name / "lock").exists()


WINDOWS = """
import os, sys
sys.modules["fcntl"] = None
from transformers import CLIPModel
import datasets
for name in ("fchmod", "copy_file_range", "O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "getuid", "pread", "pwrite"):
    if hasattr(os, name):
        delattr(os, name)
import importlib, pkgutil
import sith_hf
for module in pkgutil.walk_packages(sith_hf.__path__, "sith_hf."):
    if not module.name.endswith("__main__") and "without_sith" not in module.name:
        importlib.import_module(module.name)
from pathlib import Path
from sith_hf.files import write_whole
write_whole(Path(sys.argv[1]) / "a", b"a")
"""


@pytest.mark.slow
def test_everything_imports_without_what_windows_lacks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
