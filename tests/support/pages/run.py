"""Runs pages and prints outcomes as lines of JSON: ``python -m tests.support.pages.run FOLDER PAGE ...``.

Each page has a fresh folder, with the files that it shows, and fresh names. Python is executed in this process, a plain
call of ``sith-hf`` too, and any other command by bash. A page ends at its first problem: what follows may need it.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from unittest import mock

import yaml

from sith_hf.errors import SithError
from sith_hf.recipe import Recipe
from tests.support.cli import sith
from tests.support.pages.blocks import DATA, PYTHON, SHELL, SHOWN, Block, blocks, commands, words
from tests.support.pages.exempt import ROOT, exemption
from tests.support.pages.given import Given, fill_in

# What each page takes for granted, beside the embedded checkpoint where the repository has it.
TAKES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "README.md": ("decomposition",),
        "docs/guide/compare.md": ("BASE", "TUNED", "A", "B", "words.txt"),
        "docs/guide/edit.md": ("sith-demo", "words.txt"),
        "docs/guide/explain.md": ("sith-demo",),
        "docs/guide/explore.md": ("explained",),
        "docs/guide/fidelity.md": ("words.txt",),
        "docs/guide/ground.md": ("sith-demo", "MODEL", "DATASET", "explained", "edit"),
        "docs/guide/image-mean.md": ("MODEL", "DATASET", "words.txt"),
        "docs/guide/judges.md": ("sith-demo", "spurious-decisions"),
        "docs/guide/llava.md": ("llava", "clip", "dinov2", "words.txt"),
        "docs/guide/measure.md": ("sith-demo", "BASE", "EDITED", "imagefolder"),
        "docs/guide/publish.md": ("edited", "no-sea"),
        "docs/guide/recipes.md": ("conceptnet.txt",),
        "docs/guide/demo.md": ("sith-demo",),
        "docs/guide/scale.md": ("my.yaml",),
    }
)

# Modules that are not installed: code that imports them is compiled only.
ABSENT = {"open_clip": "is no dependency; tests/towers/test_open_clip.py reads its folders"}

# What is replaced in a command, so that it costs less.
CHEAPER = (
    (r"(sith-hf decompose .*--effect total .*)", r"\1 --layers -1"),
    (r"(sith-hf fidelity .*--draws )\d+", r"\g<1>9 --methods comp,omp --sparsities 2,5"),
    (r"(sith-hf tune .*)", r"\1 --set tune.trials=2 --set tune.max_vectors=1 --set tune.layers=[[-1]]"),
)

# Pictures of each kind, at most, and random directions; figures do not matter here.
PICTURES = {"groups": 6, "balanced": 48, "faded": 48, "unsafe": 24, "leaves": 48}
DRAWS = 100

_PLAIN = re.compile(r"sith-hf\s[^|<>;&$`]*")


@dataclass(frozen=True)
class Outcome:
    """What became of a block of Python or data, or of a command.

    Attributes:
        page, line: where it begins.
        how: "python", "sith-hf", "bash", "data", or the reason why it is not run.
        seconds: of this process.
        problem: what went wrong; None if nothing did.
    """

    page: str
    line: int
    how: str
    seconds: float
    problem: str | None


def run_page(page: Path, name: str, folder: Path) -> list[Outcome]:
    """Run a page in a folder; the outcomes up to the first problem."""
    found: list[Outcome] = []
    names: dict[str, object] = {"__name__": "__main__"}
    with contextlib.chdir(folder):
        shown = blocks(page)
        # A page may name a file before it shows it.
        for block in (block for block in shown if block.language in DATA):
            _write(block)
        for block in shown:
            for line, how, work in _steps(block, name, names):
                start = time.process_time()
                problem = work()
                found.append(Outcome(name, line, how, round(time.process_time() - start, 2), problem))
                if problem:
                    return found
                if Path("sheet.csv").exists():
                    fill_in(Path("sheet.csv"))
    return found


def _steps(block: Block, page: str, names: dict[str, object]) -> Iterator[tuple[int, str, object]]:
    """The line, the way and the work of each step of a block."""
    if block.language in PYTHON:
        yield block.line, "python", lambda: _python(block, page, names)
    elif block.language in DATA:
        yield block.line, "data", lambda: _data(block)
    elif block.language in SHELL:
        for line, command in commands(block):
            exempt = exemption(command)
            if exempt is not None:
                yield line, exempt.reason, lambda exempt=exempt, command=command: exempt.check(command)
            elif _PLAIN.fullmatch(command):
                yield line, "sith-hf", lambda command=command: _sith(command)
            else:
                yield line, "bash", lambda command=command: _bash(command)
    elif block.language not in SHOWN:
        problem = f"{block.language or 'no language'}: a block is {', '.join((*PYTHON, *SHELL, *DATA, *SHOWN))}"
        yield block.line, "language", lambda: problem


def _python(block: Block, page: str, names: dict[str, object]) -> str | None:
    absent = [name for name in ABSENT if f"import {name}" in block.text]
    # Lines of a traceback are those of the page.
    source = "\n" * (block.line - 1) + block.text
    try:
        with (
            mock.patch.object(sys, "argv", ["sith-hf", "--help"]),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            code = compile(source, page, "exec")
            if not absent:
                exec(code, names)
    except SystemExit as stopped:
        return f"ended with {stopped.code}" if stopped.code else None
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == page]
        at = lines[-1] if lines else getattr(error, "lineno", block.line)
        return f"line {at}: {type(error).__name__}: {error}"
    return None


def _sith(command: str) -> str | None:
    for pattern, cheaper in CHEAPER:
        command = re.sub(pattern, cheaper, command)
    arguments = words(command)[1:]
    # As a shell does, but only where there are such files.
    found = [sorted(glob.glob(word)) or [word] if re.search(r"[*?]", word) else [word] for word in arguments]
    ran = sith(*(word for each in found for word in each))
    return None if ran.code == 0 else f"{command} ended with {ran.code}: {ran.err.strip().splitlines()[-1:]}"


def _bash(command: str) -> str | None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, env=environment, check=False
    )
    return None if ran.returncode == 0 else f"{command} ended with {ran.returncode}: {ran.stderr.strip()[-300:]}"


def _data(block: Block) -> str | None:
    """Parse YAML and JSON; a recipe must be one."""
    if block.language not in ("yaml", "yml", "json"):
        return None
    try:
        data = yaml.safe_load(block.text)
        if isinstance(data, dict) and "extends" in data:
            Path("shown.yaml").write_text(block.text, encoding="utf-8")
            Recipe.load("shown.yaml")
    except (yaml.YAMLError, SithError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _write(block: Block) -> None:
    """Write a block to the file that the paragraph above it names last, if it names one."""
    named = re.findall(r"`([\w.-]+\.(?:ya?ml|json|toml|csv))`", block.above)
    if named:
        Path(named[-1]).write_text(block.text, encoding="utf-8")


@contextlib.contextmanager
def cheaply() -> Iterator[None]:
    """Few pictures and random directions."""
    data = import_module("sith_hf.world.data")

    def few(kind: str) -> object:
        draw = data.KINDS[kind]
        return lambda seed, pictures: draw(seed, min(pictures, PICTURES[kind]))

    with (
        mock.patch.object(os, "fsync", os.fstat),
        mock.patch.object(import_module("sith_hf.decomposition.decompose"), "DRAWS", DRAWS),
        mock.patch.object(import_module("sith_hf.evaluation.edit_effect"), "PICTURES", PICTURES["leaves"]),
        mock.patch.object(data, "KINDS", {kind: few(kind) for kind in data.KINDS}),
    ):
        yield


def main(folder: Path, pages: list[Path]) -> None:
    """Run pages and print their outcomes."""
    (folder / "keep").mkdir(parents=True)
    with cheaply():
        given = Given(folder / "keep")
        for page in pages:
            name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
            place = given.folder(folder / name.replace("/", "-"), TAKES.get(name, ()))
            for outcome in run_page(page, name, place):
                print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
