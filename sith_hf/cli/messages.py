"""How much a command says on stderr: ``-q`` and ``-v``, of the program and of every command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import wraps
from typing import Any

import click

from sith_hf.core.escaping import sanitize

QUIET, USUAL, VERBOSE = logging.WARNING, logging.INFO, logging.DEBUG

# Read when the libraries are imported, which is after the options of a command are read.
_LIBRARIES = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")
_NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


def note(line: str) -> None:
    """Print a line on stderr, without ``-q`` only."""
    _log().info("%s", line)


def detail(line: str) -> None:
    """Print a line on stderr, with ``-v`` only."""
    _log().debug("%s", line)


def warn(line: str) -> None:
    """Print a line on stderr that matters for the result, also with ``-q``."""
    _log().warning("%s", line)


def progress() -> bool:
    """Return whether bars are shown: not with ``-q``."""
    return _level() != QUIET


def with_verbosity(command: click.Command) -> click.Command:
    """Return a copy of a command that takes ``-q`` and ``-v``, and runs as they say."""
    made, run = copy(command), command.callback
    assert run is not None  # every command has one

    @wraps(run)
    def heard(*args: Any, **values: Any) -> Any:
        with _speaking(_level()):
            return run(*args, **values)

    made.params, made.callback = [*command.params, *verbosity()], heard
    return made


def verbosity() -> list[click.Option]:
    """Return the options ``-q`` and ``-v``."""
    quiet, verbose = "Print the result and warnings only.", "Print what is done, and what Hugging Face's libraries say."
    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_choose, help=quiet),
        click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=_choose, help=verbose),
    ]


def _choose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value:
        return
    level = QUIET if parameter.name == "quiet" else VERBOSE
    if context.meta.setdefault(__name__, level) != level:
        raise click.UsageError("-q and -v exclude each other: give one", context)


def _level() -> int:
    context = click.get_current_context(silent=True)
    return USUAL if context is None else int(context.meta.get(__name__, USUAL))


def _log() -> logging.Logger:
    return logging.getLogger("sith_hf")


@contextmanager
def _speaking(level: int) -> Iterator[None]:
    """Send what the package logs to stderr, and make the libraries of Hugging Face as loud as ``level`` says.

    Variables that the user has set are left alone.
    """
    wanted = dict.fromkeys(_LIBRARIES, "info") if level == VERBOSE else dict.fromkeys(_LIBRARIES, "error") | _NO_BARS
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    log, handler = _log(), _ToStderr()
    before = log.level
    os.environ.update(added)
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)
        for name in added:
            os.environ.pop(name, None)


class _ToStderr(logging.Handler):
    """Prints each record as one line, above a bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = sanitize(record.getMessage(), 2000)
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)
