"""Run ``sith-hf`` in this process, and check how it ended."""

from __future__ import annotations

import io
import json
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

from sith_hf.cli import main

# Terminal codes, text that turns direction, markup for Markdown, HTML and rich.
HOSTILE = ("\x1b[31mred\x1b[0m", "left\u202eright", "<b>|bold|</b>", "[link](x)[/red]", "bell\x07", "zero\u200bwidth")


class Ran(NamedTuple):
    """The exit code of a run, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """stdout as JSON: it holds nothing else."""
        return json.loads(self.out)


def sith(*arguments: object) -> Ran:
    """Run ``sith-hf`` as the console script does."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, terminate = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["sith-hf", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, terminate)
    return Ran(code, out.getvalue(), err.getvalue())


def succeeded(ran: Ran) -> Ran:
    """Check that a run ended well and printed nothing that a terminal obeys; returns it."""
    assert ran.code == 0, ran.err
    harmless(ran)
    return ran


def refused(ran: Ran) -> str:
    """Check that a run ended with one clear message; returns it."""
    lines = [line for line in ran.err.replace("\r", "\n").split("\n") if line.strip()]
    assert ran.code == 2, ran
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert lines[-1].startswith("Error: "), ran.err
    assert sum(line.startswith("Error: ") for line in lines) == 1
    assert len("Error: ") + 8 < len(lines[-1]) < 2100
    harmless(ran)
    return lines[-1]


def harmless(ran: Ran) -> None:
    """Check that no character obeyed by a terminal was printed, apart from those of a progress bar on stderr."""
    for text in (ran.out, ran.err.replace("\r", "").replace("\x1b[A", "")):
        assert not set(text) & {"\x1b", "\x07", "\u202e", "\u2028", "\x08", "\x9b"}
