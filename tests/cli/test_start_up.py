"""What a command imports before it prints: nothing that it does not need; and what a shell completes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete, get_completion_class

from sith_hf.cli import COMMANDS, sith_hf

PROBE = """
import sys
from sith_hf.cli import sith_hf
sith_hf.main(sys.argv[1:], standalone_mode=False)
unused = {"transformers", "datasets", "pandas", "evaluate", "accelerate", "matplotlib", "sklearn", "gradio", "pydantic"}
print(sorted(unused & set(sys.modules)), "torch" in sys.modules)
"""


@pytest.mark.parametrize("words", [("show",), ("find", "sea")])
def test_looking_at_a_file_imports_no_models(work, words):
    name, *rest = words
    done = subprocess.run(
        [sys.executable, "-c", PROBE, name, work / "d", *rest], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[] True"


def test_the_probe_finds_what_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", f"import accelerate\n{PROBE}", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['accelerate'] True"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell):
    found = get_completion_class(shell)
    assert found is not None
    made = found(sith_hf, {}, "sith-hf", "_SITH_HF_COMPLETE")
    assert f"_SITH_HF_COMPLETE={shell}_complete" in made.source_template % made.source_vars()


@pytest.mark.parametrize(
    ("words", "last", "completed"),
    [
        ([], "dec", ["decompose"]),
        ([], "zz", []),
        (["decompose", "m"], "--eff", ["--effect"]),
        (["decompose", "m", "--effect"], "t", ["total"]),
        (["edit", "m", "--dtype"], "b", ["bfloat16"]),
        (["edit", "m", "--device"], "c", ["cpu", "cuda"]),
        (["show", "-"], "--qu", ["--quiet"]),
        (["run"], "paper/w", ["paper/waterbirds"]),
        (["recipes"], "dem", ["demo"]),
    ],
)
def test_a_shell_completes(words, last, completed):
    found = ShellComplete(sith_hf, {}, "sith-hf", "_SITH_HF_COMPLETE").get_completions(words, last)
    assert [item.value for item in found] == completed


@pytest.mark.parametrize("words", [["show"], ["find"], ["edit"], ["edit", "m", "--decomposition"], ["run"]])
def test_a_shell_completes_paths(words):
    (found,) = ShellComplete(sith_hf, {}, "sith-hf", "_SITH_HF_COMPLETE").get_completions(words, "./x")
    assert (found.type, found.value) == ("file", "./x")


def test_all_commands_are_completed():
    found = ShellComplete(sith_hf, {}, "sith-hf", "_SITH_HF_COMPLETE").get_completions([], "")
    assert [item.value for item in found] == list(COMMANDS)
