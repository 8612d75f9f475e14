"""The time until ``sith-hf show`` has printed, against that of importing torch.

    python benchmarks/start_up.py [--repeats 7 --json]

Random decompositions of the sizes of a ViT-B/32 (4 layers) and of a ViT-L/14 (24 layers of 16 heads of 64 vectors, two
poles of each). Each command runs in a process of its own, in turn with ``python -c "import torch"``. CPU seconds are
those of the process, user and system; unlike seconds on the clock they do not grow with the load of the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import Times, medians, options, ratio, show, started, surroundings
from torch.nn.functional import normalize

from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition import Decomposition, Significance

TORCH = "import torch"
# Layers, heads, vectors of a head, width, joint size.
SIZES = {"show, 4 layers of a ViT-B/32": (4, 12, 64, 768, 512), "show, a whole ViT-L/14": (24, 16, 64, 1024, 768)}
WORDS, CONCEPTS = 5, 4000


def random_decomposition(layers: int, heads: int, rank: int, width: int, joint: int, seed: int) -> Decomposition:
    """Return a decomposition of random vectors; a twentieth of its poles are beyond chance."""
    torch.manual_seed(seed)
    vectors = (layers, heads, rank)
    values = torch.rand(*vectors).sort(dim=-1, descending=True).values
    fidelity = torch.where(torch.rand(*vectors, 2) < 0.05, 0.7, 0.1)
    return Decomposition(
        layers=tuple(range(layers)),
        singular_values=values,
        energy=(values**2).sum(-1),
        write=normalize(torch.randn(*vectors, width), dim=-1),
        read=normalize(torch.randn(*vectors, width), dim=-1),
        concept=torch.randint(0, CONCEPTS, (*vectors, 2, WORDS)),
        weight=torch.rand(*vectors, 2, WORDS).sort(dim=-1, descending=True).values,
        fidelity=fidelity,
        coherence=torch.rand(*vectors, 2),
        ceiling=torch.full(vectors, 0.9),
        texts=tuple(sorted(f"concept {number}" for number in range(CONCEPTS))),
        embeddings=normalize(torch.randn(CONCEPTS, joint), dim=-1),
        dictionary_mean=torch.zeros(joint),
        image_mean=torch.zeros(joint),
        poles=("+", "-"),
        base=BaseRef("random", None, {f"{layer} {name}": "0" for layer in range(layers) for name in "abcd"}),
        settings={"fold": True, "centre": True},
        significance=Significance.of(fidelity, torch.linspace(0.0, 0.3, 16000)[None], [0] * layers),
    )


def run(words: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds, and its CPU seconds."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu


def main() -> None:
    args = started(options(__doc__.splitlines()[0], repeats=7))
    with tempfile.TemporaryDirectory() as scratch:
        commands = {TORCH: [sys.executable, "-c", TORCH], "--help": [sys.executable, "-m", "sith_hf", "--help"]}
        for name, size in SIZES.items():
            folder = Path(scratch, str(size[0]))
            random_decomposition(*size, seed=args.seed).save_pretrained(folder)
            commands[name] = [sys.executable, "-m", "sith_hf", "show", str(folder)]
        seconds: Times = {name: [] for name in commands}
        cpu: Times = {name: [] for name in commands}
        for repeat in range(args.repeats + 1):
            for name, words in commands.items():
                took = run(words)
                if repeat:  # the first run fills the page cache
                    seconds[name].append(took[0])
                    cpu[name].append(took[1])
    ratios = {name: (ratio(seconds, name, TORCH), ratio(cpu, name, TORCH)) for name in commands if name != TORCH}
    result = {
        "benchmark": "start_up",
        "sizes": {"decompositions": len(SIZES)},
        "median_seconds": medians(seconds),
        "median_cpu_seconds": medians(cpu),
        "ratio_to_torch": {name: {"seconds": own[0], "cpu": own[1]} for name, own in ratios.items()},
        **surroundings(args.repeats),
    }
    findings = [f"{name}: {a:.2f} times import torch, {b:.2f} in CPU time" for name, (a, b) in ratios.items()]
    show("start-up", args, result, findings)


if __name__ == "__main__":
    main()
