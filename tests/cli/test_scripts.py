"""The two names of the command: ``sith-hf``, and ``hf-sith``, the name of an extension of ``hf``."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

NAMES = ("sith-hf", "hf-sith")
ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Call an installed script as a user does."""
    script = Path(sys.executable).parent / name
    return subprocess.run([script, *words], capture_output=True, text=True, check=False)


def test_both_are_declared_and_installed_as_one_function():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert declared == dict.fromkeys(NAMES, "sith_hf.cli:main")
    found = {point.name: point for point in entry_points(group="console_scripts") if point.dist.name == "sith-hf"}
    assert set(found) == set(NAMES)
    assert len({point.load() for point in found.values()}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_messages_use_the_name_that_was_called(name):
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {name} [OPTIONS] COMMAND")
    done = run(name, "verify", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {name} verify ")
    done = run(name, "verfy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Usage: {name} [OPTIONS]")
    assert "verfy" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_both_are_the_same_version(name):
    assert run(name, "--version").stdout == f"sith-hf, version {version('sith-hf')}\n"
