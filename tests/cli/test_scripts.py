"""The two names of the command: ``sith-hf``, and ``hf-sith``, by which ``hf`` finds its extensions."""

from __future__ import annotations

import re
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
def test_help_speaks_of_itself_by_the_name_that_was_called(name):
    done = run(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: {name} [OPTIONS] COMMAND")
    assert "save-edited" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_subcommand_and_a_wrong_use_do_too(name):
    done = run(name, "verify", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {name} verify ")
    other = next(one for one in NAMES if one != name)
    assert not re.search(rf"^Usage: {other}", done.stdout, re.MULTILINE)
    done = run(name, "verfy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Usage: {name} [OPTIONS]")
    assert "verfy" in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_both_are_the_same_version(name):
    done = run(name, "--version")
    assert done.stdout == f"sith-hf, version {version('sith-hf')}\n"
