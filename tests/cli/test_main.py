"""The program itself: help that imports nothing, exit codes, interruptions."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from sith_hf.cli import COMMANDS
from tests.support.cli import refused, sith, succeeded
from tests.support.raw import tree

PROBE = """
import sys
from sith_hf.cli import COMMANDS, sith_hf
for words in ([], *([name] for name in COMMANDS)):
    assert sith_hf.main([*words, "--help"], standalone_mode=False) == 0
    heavy = {"torch", "transformers", "datasets", "evaluate", "accelerate", "numpy", "pydantic"} & set(sys.modules)
    assert not heavy, (words, heavy)
import pydantic, numpy
assert {"numpy", "pydantic"} <= set(sys.modules)
"""


def run(*words, **options):
    """Run a command in a process of its own."""
    return subprocess.run(
        words, stderr=subprocess.PIPE, text=True, check=False, **{"stdout": subprocess.PIPE, **options}
    )


class TestHelp:
    def test_it_imports_nothing_heavy(self):
        done = run(sys.executable, "-c", PROBE, env={**os.environ, "COLUMNS": "200"})
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        for name, (_, line) in COMMANDS.items():
            assert f"{name} " in done.stdout
            assert line in done.stdout

    def test_every_command_is_named_as_it_is_called(self):
        for name in COMMANDS:
            assert f"sith-hf {name} [OPTIONS]" in succeeded(sith(name, "--help")).out
        assert "explode" in refused(sith("explode", "--help"))

    def test_python_m(self):
        done = run(sys.executable, "-m", "sith_hf", "--version")
        assert done.returncode == 0
        assert done.stdout.startswith("sith-hf, version ")


class TestExitCodes:
    def test_a_refusal_is_one_line(self, work):
        done = run(sys.executable, "-m", "sith_hf", "save-edited", work / "none", "--spec", work, "-o", work / "x")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("Error: ")
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(("words", "named"), [(("--explode",), "--explode"), (("--\x1b[31mred",), "red")])
    def test_an_option_that_does_not_exist(self, refuses, words, named):
        refuses(("show", "{work}/d", *words), named)

    def test_a_command_that_does_not_exist(self):
        assert "did you mean decompose?" in refused(sith("decompos"))
        unlike = refused(sith("xyzzy"))
        assert "did you mean" not in unlike
        assert all(name in unlike for name in COMMANDS)

    def test_a_reader_that_went_away(self):
        reader, writer = os.pipe()
        os.close(reader)
        done = run(sys.executable, "-m", "sith_hf", "--help", stdout=writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.slow
class TestInterrupted:
    """Ctrl-C, SIGTERM and a full disk: the exit code says so, and no half of anything stays."""

    @pytest.fixture
    def commands(self, work, tmp_path):
        out = ("-o", tmp_path / "out")
        return {
            "decompose": ("decompose", work / "clip", "--dictionary", work / "d", "--layers", "-1", *out),
            "edit": ("edit", work / "clip", "--decomposition", work / "d", "--layers", "0", "--gain", "0", *out),
            "save-edited": ("save-edited", work / "clip", "--spec", work / "spec", *out),
        }

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_while_computing(self, commands, tmp_path, monkeypatch, number):
        svd = torch.linalg.svd

        def stopped(*args, **options):
            signal.raise_signal(number)
            return svd(*args, **options)

        monkeypatch.setattr(torch.linalg, "svd", stopped)
        ran = sith(*commands["decompose"])
        assert (ran.code, ran.out) == (130, "")
        assert "Traceback" not in ran.err
        assert ran.err.rstrip().splitlines()[-1].startswith("Stopped")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["stop", "full"]
    )
    @pytest.mark.parametrize("name", ["decompose", "edit", "save-edited"])
    def test_at_every_write(self, commands, tmp_path, monkeypatch, name, error):
        """Whichever write fails, the output is whole or absent; finished parts of a decomposition may stay."""
        out, fsync = tmp_path / "out", os.fsync
        succeeded(sith(*commands[name]))
        whole = set(tree(out))
        for last in itertools.count():
            shutil.rmtree(out, ignore_errors=True)
            calls = itertools.count()

            def failing(descriptor, calls=calls, last=last):
                if next(calls) >= last:
                    raise type(error)(*error.args)
                fsync(descriptor)

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", failing)
                ran = sith(*commands[name])
            if ran.code == 0:
                break
            assert ran.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
            assert ("No space left on device" in refused(ran)) if ran.code == 2 else ("Traceback" not in ran.err)
            # The same command resumes from finished parts, and from nothing else.
            assert ran.code == 2 or ("The same command resumes" in ran.err) == any(tmp_path.rglob("*.part"))
            assert {path.name for path in tmp_path.iterdir()} <= {"out", "out.work"}
            assert set(tree(out)) in (set(), whole)
        assert last > 0
        assert set(tree(out)) == whole
        assert {path.name for path in tmp_path.iterdir()} == {"out"}


LONG = "a" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("card", LONG),
        ("judge", "{work}/d", "--export", LONG),
        ("judge", "{work}/d", "--import", LONG, "-o", "out"),
        ("save-edited", "{work}/clip", "--spec", "{work}/spec", "-o", f"new/{LONG}"),
        ("decompose", "{work}/clip", "--dictionary", "{work}/d", "-o", f"new/{LONG}"),
    ],
    ids=lambda words: " ".join(word for word in words if len(word) < 20),
)
def test_a_path_that_no_file_can_have_is_one_line_and_leaves_nothing(work, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert LONG[:100] in refused(sith(*(word.format(work=work) for word in words)))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_read_is_one_line(work, tmp_path, monkeypatch):
    shutil.copytree(work / "edited", tmp_path / "edited")
    real = os.stat

    def closed(path, *args, **kwargs):
        if "sith" in os.path.relpath(str(path), tmp_path).split(os.sep):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", closed)
    assert "Permission denied; check the path" in refused(sith("card", tmp_path / "edited"))
