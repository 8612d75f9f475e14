"""What stderr gets: with -q the result's warnings only, with -v what is done; and what the libraries say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.cli import refused, sith, succeeded

DRY = ("--dry-run",)

LIBRARIES = """
import sys
from sith_hf.cli import sith_hf
sith_hf.main(sys.argv[1:], standalone_mode=False)
import datasets.utils, huggingface_hub.utils, transformers.utils.logging as logging
print(logging.is_progress_bar_enabled(), logging.get_verbosity(), file=sys.stderr)
"""


@pytest.fixture
def names(work):
    return (
        work / "clip",
        "--decomposition",
        work / "d",
        "--layers",
        "-1:",
        "--gain",
        "0",
        "--heads",
        "-1",
        *DRY,
    )


@pytest.mark.parametrize("words", [("-q", "edit"), ("edit", "--quiet")])
def test_quiet_leaves_the_result(names, words):
    usual, quiet = succeeded(sith("edit", *names)), succeeded(sith(*words, *names))
    assert quiet.out == usual.out != ""
    assert quiet.err.replace("\r", "\n").count("warning: ") == usual.err.count("warning: ")


def test_quiet_has_no_bars_and_no_notes(work, tmp_path):
    words = ("decompose", work / "clip", "--dictionary", work / "d", "--layers", "-1", "-o", tmp_path / "d")
    assert "decomposing" in sith(*words).err
    assert "already done" in sith(*words).err
    again = succeeded(sith(*words, "-q"))
    assert "already done" not in again.err
    assert "decomposing" not in succeeded(sith("-q", *words, "--overwrite")).err


@pytest.mark.parametrize("words", [("-v", "show"), ("show", "-v")])
def test_verbose_says_what_is_read(work, words):
    ran = succeeded(sith(*words, work / "d", "--json"))
    assert f"reading {work / 'd' / 'decomposition.safetensors'}" in ran.err
    assert ran.out == succeeded(sith("show", work / "d", "--json")).out
    assert "reading" not in sith("show", work / "d").err


def test_one_of_them(work):
    assert "-q and -v exclude each other" in refused(sith("-q", "show", "-v", work / "d"))


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), [((), "False 40"), (("-v",), "True 20")])
def test_the_libraries_are_quiet_without_verbose(work, words, said):
    hidden = ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY")
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [
        "edit",
        str(work / "clip"),
        "--decomposition",
        str(work / "d"),
        "--layers",
        "0",
        "--gain",
        "0",
        *DRY,
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES, *command, *words], env=clean, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == said
    assert ("Loading weights" in done.stderr) == bool(words)
