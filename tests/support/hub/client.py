"""Runs clients of the test Hub in processes of their own, away from the user's token and cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.hub.core import Hub

ROOT = Path(__file__).parents[3]
KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")
IMPATIENT = """
import time as _time
naps, _sleep = [], _time.sleep
def _nap(seconds):
    naps.append(seconds)
    _sleep(min(seconds, 0.001))
_time.sleep = _nap
del _time
"""


def client_env(hub: Hub, home: Path, token: str | None = None, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a client: this Hub and a home of its own, nothing of the user's."""
    made = {name: os.environ[name] for name in KEPT if name in os.environ}
    made |= {"HOME": str(home), "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(home)}
    made |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    made |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "*", "TOKENIZERS_PARALLELISM": "false"}
    made |= {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if token is not None:
        made["HF_TOKEN"] = token
    return made | dict(env or {})


def run_client(
    hub: Hub,
    code: str,
    *,
    token: str | None = None,
    env: Mapping[str, str] | None = None,
    home: Path | None = None,
    cwd: Path | None = None,
    patient: bool = False,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run Python code against a Hub in a fresh process.

    Without ``home`` the client's home (and with it its cache) is new and removed afterwards. Unless ``patient``,
    ``time.sleep`` only notes in ``naps`` how long it was asked to wait.
    """
    with tempfile.TemporaryDirectory(prefix="hub-client-") as scratch:
        place = Path(scratch)
        script = place / "client.py"
        script.write_text(("" if patient else IMPATIENT) + textwrap.dedent(code))
        return subprocess.run(
            [sys.executable, str(script)],
            env=client_env(hub, home or place, token, env),
            cwd=cwd or home or place,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def run_cli(hub: Hub, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run ``sith-hf`` with these arguments against a Hub; keywords as :func:`run_client`."""
    code = f"import sys\nsys.argv = ['sith-hf', *{list(arguments)!r}]\nfrom sith_hf.cli import main\nsys.exit(main())\n"
    return run_client(hub, code, **how)


def ask(hub: Hub, code: str, **how: Any) -> Any:
    """Run code that must succeed and print JSON in its last line; that, decoded."""
    done = run_client(hub, code, **how)
    if done.returncode != 0 or not done.stdout.strip():
        raise AssertionError(f"the client failed ({done.returncode}):\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def leaks(hub: Hub, done: subprocess.CompletedProcess[str] | None = None, *folders: Path) -> list[str]:
    """List the places that contain a token of this Hub: the output of a client, or files below these folders."""
    tokens = [token.encode() for token in hub.secrets()]
    seen = {} if done is None else {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    for folder in folders:
        seen |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [name for name, content in seen.items() if any(token in content for token in tokens)]
