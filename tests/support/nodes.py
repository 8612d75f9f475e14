"""Two nodes, started by tests/end_to_end/test_several_nodes.py; the main process of theirs writes a report file.

Each node is a launcher of torch with one process. All are forks of one process that has imported what they need.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from sith_hf import cli
from sith_hf.core.distributed import join_processes
from sith_hf.evaluation import edit_effect
from sith_hf.images import embed
from tests.support.forking import forked

decompose = import_module("sith_hf.decomposition.decompose")

# Rows in a batch, and batches in a part.
BATCH, BATCHES = 2, 2

REPORT = "report.json"


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the arguments of ``sith-hf`` by the name of their output, a path relative to the current folder."""
    columns = ["--columns", "label=kind,group=place", "--classes", "boat,car", "--batch-size", str(BATCH), "--json"]
    data = ["--data", str(folder / "images"), *columns]
    models = ["evaluate", str(folder / "clip"), "--spec", str(folder / "spec")]
    decompose = ["decompose", str(folder / "clip"), "--concepts", str(folder / "concepts.txt"), "--json"]
    return {
        "decomposition": [*decompose, "-o", "decomposition"],
        "run": ["run", str(folder / "recipe.yaml"), "--json", "-o", "run"],
        "table.json": [*models, *data, "-o", "table.json"],
        "stream.json": [*models, *data, "--streaming", "-o", "stream.json"],
    }


def ended(arguments: list[str]) -> int:
    """Run ``sith-hf`` and return its exit code."""
    sys.argv = ["sith-hf", *arguments]
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def work(folder: Path) -> None:
    """What the process of a node does, under its launcher."""
    torch.set_num_threads(1)
    embed.BATCHES = BATCHES
    edit_effect.PICTURES, decompose.DRAWS = 48, 100  # as in tests/conftest.py
    processes = join_processes()
    found: dict[str, Any] = {"processes": processes.world_size, "made": {}}

    def keep() -> None:
        every = processes.all_gather(lambda: found)
        if processes.is_main:
            (folder / REPORT).write_text(json.dumps(every))

    real, calls = embed.embed_batch, [0]
    deadly: list[int] = []

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        if deadly and calls[0] > deadly[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    embed.embed_batch = counted
    every = commands(folder)
    for name, arguments in every.items():
        calls[0] = 0
        found[name] = ended(arguments)
        found["made"][name] = calls[0]
    found["again"] = ended(every["run"])
    found["alone"] = ended(["recipes"])
    torch.set_num_threads(1 + processes.rank)
    found["other threads"] = ended([*every["table.json"][:-1], "threads.json"])
    torch.set_num_threads(1)
    keep()
    if not processes.is_main:
        calls[0], deadly[:] = 0, [3]
    code = ended([*every["run"][:-1], "killed"])
    (folder / "killed.json").write_text(json.dumps(code))

    # The report is written. After a peer has died, gloo's threads sometimes abort the interpreter while it ends.
    sys.stdout.flush()
    sys.stderr.flush()
    # A launcher whose process ends well waits five minutes for the one whose process was killed.
    os._exit(1)


def launch(rank: int, folder: Path, port: str) -> None:
    """Be the launcher of a node, as ``torchrun`` is, with a current folder of its own."""
    os.chdir(folder / f"node-{rank}")
    options = ["--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1", "--monitor_interval", "0.1"]
    options += ["--master_addr", "127.0.0.1", "--master_port", port, "-m", "tests.support.nodes"]
    config, _, _ = config_from_args(parse_args(options))
    config.start_method = "fork"
    elastic_launch(config, work)(folder)


def main() -> None:
    """``python -m tests.support.nodes FOLDER PORT``."""
    folder, port = Path(sys.argv[1]), sys.argv[2]
    codes = forked(lambda rank: launch(rank, folder, port), 2, folder)
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main()
