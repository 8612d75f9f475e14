"""A long-lived client process of the test Hub, which imports once and runs code for many tests."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from tests.support.hub import Hub, client_env
from tests.support.hub.client import IMPATIENT

LOOP = """
import contextlib, io, json, os, sys, traceback, warnings
from pathlib import Path
warnings.simplefilter("ignore")
channel, sys.stdout = sys.stdout, sys.stderr
import huggingface_hub
from huggingface_hub import constants
from sith_hf import publish as hub
from sith_hf.checkpoint.write import locate, revert
from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import SithError
from sith_hf.cli import main
constants.DOWNLOAD_CHUNK_SIZE = 1024

def cli(*arguments):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["sith-hf", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    return {"code": code or 0, "out": out.getvalue(), "err": err.getvalue()}

for line in sys.stdin:
    asked = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if asked["token"]:
        os.environ["HF_TOKEN"] = asked["token"]
    names = {**globals(), **asked["values"], "out": None}
    try:
        exec(asked["code"], names)
        answer = {"out": names["out"]}
    except SithError as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        answer = {"error": str(error), "kinds": kinds, "chained": error.__cause__ is not None}
    except BaseException:
        answer = {"crash": traceback.format_exc()}
    print(json.dumps(answer, default=str), file=channel, flush=True)
"""


class Refused(Exception):
    """An error of sith-hf in the client: its message, and the names of its classes."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["error"])
        self.kinds: list[str] = answer["kinds"]
        self.chained: bool = answer["chained"]


class Worker:
    """The client. A context manager; ``heard`` is everything that it ever answered."""

    def __init__(self, hub: Hub, home: Path, **env: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        script = home / "worker.py"
        script.write_text(IMPATIENT + LOOP)
        self.hub, self.home, self.heard = hub, home, ""
        self._log = (home / "stderr.txt").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            env=client_env(hub, home, env=env),
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def do(self, code: str, token: str | None = None, **values: Any) -> Any:
        """Run code in the client and return its ``out``. Raises Refused for errors of sith-hf, fails for all others."""
        asked = {"code": textwrap.dedent(code), "token": token, "values": values}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client died"
        self.heard += line
        answer = json.loads(line)
        assert "crash" not in answer, answer["crash"]
        if "error" in answer:
            raise Refused(answer)
        return answer["out"]
