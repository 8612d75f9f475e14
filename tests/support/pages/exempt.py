"""The commands of the documentation that are checked and not run, each with the reason and what is checked instead."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from sith_hf.cli import sith_hf as command_line
from sith_hf.errors import SithError
from sith_hf.recipe import Recipe
from tests.support.pages.blocks import words

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Exempt:
    """Commands that are not run.

    Attributes:
        pattern: of the whole command.
        reason: why, and where the work itself is tested.
        problem: of the words of a command without its assignments; None if nothing is wrong with it.
    """

    pattern: str
    reason: str
    problem: Callable[[Sequence[str]], str | None]

    def matches(self, command: str) -> bool:
        """Whether it is about this command."""
        return re.match(rf"(?:\w+=\S*\s+)*(?:{self.pattern})(?:\s|$)", command) is not None

    def check(self, command: str) -> str | None:
        """What is wrong with a command; None if nothing is."""
        found = words(command)
        while "=" in found[0] and not found[0].startswith("-"):
            found = found[1:]
        return self.problem(found)


def make_target(found: Sequence[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    missing = [name for name in found[1:] if f"\n{name}:" not in makefile]
    return f"the Makefile has no target {', '.join(missing)}" if missing else None


def extras(found: Sequence[str]) -> str | None:
    """``pip install`` of this package: its name and extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in (word for word in found[2:] if not word.startswith("-")):
        name, _, rest = word.partition("[")
        if name not in (project["name"], "."):
            return f"pip would install {word}, which is not this package"
        unknown = [extra for extra in rest.removesuffix("]").split(",") if extra] if rest else []
        unknown = [extra for extra in unknown if extra.strip() not in project["optional-dependencies"]]
        if unknown:
            return f"pyproject.toml has no extra {', '.join(unknown)}"
    return None


def parsed(found: Sequence[str]) -> str | None:
    """``sith-hf COMMAND ...``: the command, its options and their values, and the recipe if it takes one."""
    name, *arguments = found[1:]
    context = click.Context(command_line, info_name="sith-hf")
    try:
        command = command_line.get_command(context, name)
        if command is None:
            return f"sith-hf has no command {name}"
        with command.make_context(name, list(arguments), parent=context) as made:
            if "recipe" in made.params:
                Recipe.load(made.params["recipe"], made.params.get("overrides") or ())
    except (click.ClickException, SithError) as error:
        return error.format_message() if isinstance(error, click.ClickException) else str(error)
    return None


def launched(found: Sequence[str]) -> str | None:
    """``torchrun OPTIONS -m sith_hf COMMAND ...``."""
    from torch.distributed.run import get_args_parser

    try:
        options = get_args_parser().parse_args(found[1:])
    except SystemExit:
        return "torchrun has no such options"
    if not (options.module and options.training_script == "sith_hf"):
        return f"torchrun would start {options.training_script}"
    return parsed(["sith-hf", *options.training_script_args])


def of_the_hub(found: Sequence[str]) -> str | None:
    """``hf COMMAND ...``: its commands and options, and the package that it installs elsewhere."""
    from huggingface_hub.cli.hf import app

    command, place = app, 1
    while hasattr(command, "get_command"):
        inner = command.get_command(command.context_class(command), found[place])
        if inner is None:
            return f"hf has no command {found[place]}"
        command, place = inner, place + 1
    known = {option for item in command.params for option in (*item.opts, *item.secondary_opts)}
    options = found[place:]
    # What follows the image is run there.
    last = next((n for n, word in enumerate(options) if re.fullmatch(r"[\w-]+/[\w.-]+(?::\S+)?", word)), len(options))
    unknown = [word for word in options[:last] if word.startswith("-") and word.partition("=")[0] not in known]
    return f"{' '.join(found[:place])} has no option {', '.join(unknown)}" if unknown else None


class _Parsed(Exception):
    pass


def script(found: Sequence[str]) -> str | None:
    """``python benchmarks/NAME.py ...`` and ``python -m ...``: its arguments are parsed and nothing is run."""
    real, before, loaded = argparse.ArgumentParser.parse_args, sys.argv, set(sys.modules)

    def stop(parser: argparse.ArgumentParser, args: object = None, namespace: object = None) -> None:
        raise _Parsed(real(parser, args, namespace))  # type: ignore[arg-type, call-overload]

    argparse.ArgumentParser.parse_args = stop  # type: ignore[assignment, method-assign]
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        if found[1] == "-m":
            sys.argv = list(found[2:])
            runpy.run_module(found[2], run_name="__main__")
        else:
            sys.argv = [str(ROOT / found[1]), *found[2:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except _Parsed:
        return None
    except SystemExit as stopped:
        return f"{found[1]} ended with {stopped.code} before its arguments were parsed"
    except FileNotFoundError:
        return f"there is no {found[1]}"
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = real, before  # type: ignore[method-assign]
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in set(sys.modules) - loaded:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
                del sys.modules[name]
    return f"{found[1]} parses no arguments"


def tests_exist(found: Sequence[str]) -> str | None:
    missing = [word for word in found if word.startswith("tests/") and not (ROOT / word.partition("::")[0]).exists()]
    return f"there is no {', '.join(missing)}" if missing else None


def nothing(found: Sequence[str]) -> str | None:
    return None


EXEMPT = (
    Exempt(r"make [\w-]+", "sets up an environment; CI runs make demo, test, lint and docs", make_target),
    Exempt(r"pip install", "needs a package registry; tests/end_to_end/test_packaging.py installs the wheel", extras),
    Exempt(r"torchrun", "starts processes; tests/end_to_end/test_several_nodes.py", launched),
    Exempt(r"hf jobs", "rents a machine", of_the_hub),
    Exempt(
        r"python (?:benchmarks/|-m sith_hf\.demo\.train)\S*",
        "takes minutes or more; its figures are committed",
        script,
    ),
    Exempt(r"sith-hf explore (?!.*--space).*", "serves a page until it is stopped; tests/cli/test_explore.py", parsed),
    Exempt(r"sith-hf judge .*--by language-model.*", "asks a server; tests/cli/test_judge.py has one", parsed),
    Exempt(r"sith-hf run paper/.*", "needs the model and the data of the paper", parsed),
    Exempt(r"(?:pytest|python -m pytest)", "these tests", tests_exist),
    Exempt(r"(?:source|pre-commit) \S+", "sets up the environment of a contributor", nothing),
)


def exemption(command: str, known: Iterable[Exempt] = EXEMPT) -> Exempt | None:
    """The entry about a command, if it is not to be run."""
    return next((each for each in known if each.matches(command)), None)
