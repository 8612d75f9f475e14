"""One job in one process and in two, and a breakdown of the time of a small job.

Run ``python -m sith_hf decompose`` on the embedded checkpoint, alone and under ``torchrun``, compare the bytes of their
outputs, and measure start-up and arithmetic separately.

    python benchmarks/processes.py --repeats 3
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import options, ratio, show, started, surroundings

from sith_hf.world.embedded import embedded_checkpoint

COMMAND = ["-m", "sith_hf", "decompose", embedded_checkpoint(), "--json", "-o"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# The same command with timers. The command imports transformers late, so transformers is imported first, and before it
# torch, to time each import by itself.
TIMED = """
import sys, time
start = time.perf_counter()
import torch
torch_there = time.perf_counter()
from transformers import CLIPModel, CLIPTokenizer
transformers_there = time.perf_counter()
from sith_hf.editor import SithEditor
from sith_hf.cli import main
spent = {}
def timed(name):
    real = getattr(SithEditor, name)
    def around(*arguments, **options):
        began = time.perf_counter()
        try:
            return real(*arguments, **options)
        finally:
            spent[name] = spent.get(name, 0) + time.perf_counter() - began
    setattr(SithEditor, name, around)
timed("encode")
timed("decompose")
sys.argv = ["sith-hf", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
end = time.perf_counter()
# decompose calls encode again, which has nothing left to do.
print(torch_there - start, transformers_there - torch_there, spent["encode"], spent["decompose"],
      end - transformers_there - spent["encode"] - spent["decompose"])
"""


def main() -> None:
    """Run the benchmark and print the result."""
    parser = options(__doc__ or "", repeats=3)
    args = started(parser)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(arguments: list[str], folder: Path) -> tuple[float, int]:
        start = time.perf_counter()
        ran = subprocess.run([sys.executable, *arguments, folder], env=environment, capture_output=True, text=True)
        took = time.perf_counter() - start
        if ran.returncode:
            raise SystemExit(ran.stderr)
        return took, json.loads(ran.stdout)["processes"]

    times: dict[str, list[float]] = {"one process": [], "two processes": [], "--help": []}
    phases: list[list[float]] = []
    same = True
    with tempfile.TemporaryDirectory() as temporary:
        for repeat in range(args.repeats):
            one, two = Path(temporary) / f"one-{repeat}", Path(temporary) / f"two-{repeat}"
            for name, arguments, folder, wanted in (
                ("one process", COMMAND, one, 1),
                ("two processes", [*TORCHRUN, *COMMAND], two, 2),
            ):
                took, number = run(arguments, folder)
                if number != wanted:
                    raise SystemExit(f"{name}: there were {number}")
                times[name].append(took)
            for file in ("decomposition.safetensors", "dictionary.safetensors"):
                same = same and (one / file).read_bytes() == (two / file).read_bytes()
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "sith_hf", "decompose", "--help"], check=True, capture_output=True)
            times["--help"].append(time.perf_counter() - start)
            ran = subprocess.run(
                [sys.executable, "-c", TIMED, *COMMAND[2:], Path(temporary) / f"timed-{repeat}"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            phases.append([float(number) for number in ran.stdout.splitlines()[-1].split()])
    names = ("import torch", "import transformers", "encode", "decompose", "all the rest")
    parts = {name: statistics.median(row[i] for row in phases) for i, name in enumerate(names)}
    outside = parts["all the rest"]
    result = {
        "sizes": {"layers": 4, "heads": 8, "concepts": 4210},
        "median_seconds": {**{name: statistics.median(took) for name, took in times.items()}, **parts},
        "outside": outside,
        "same bytes": same,
        "ratio": ratio(times, "two processes", "one process"),
        **surroundings(args.repeats),
    }
    findings = [
        f"outside imports of torch and transformers and outside encode and decompose: {outside:.2f} s",
        f"two processes take {result['ratio']:.2f} times as long as one (each imports everything anew)",
        f"the bytes are {'the same' if same else 'OTHERS'}",
    ]
    show("one process and two", args, result, findings)


if __name__ == "__main__":
    main()
