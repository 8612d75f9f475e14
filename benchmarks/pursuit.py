"""COMP against its literal formulation and against the bare matrix products it cannot do without.

    python benchmarks/pursuit.py [--vectors 1024 --atoms 50000 --width 768 --sparsity 5 --threads 2 --repeats 5 --json]

Three things are timed in turn, several times over, in one process; the ratios are medians over the repeats.

- ours: ``Pursuit(sparsity=K)(x, atoms)``, checks of the input included.
- literal: a residual product and a coherence product with the whole dictionary at every step, scores ``[N, M]``, dense
  ``[N, M]`` codes times the dictionary for the residual. It has our batched refit: only the products are compared.
- bare: K products of all vectors with all atoms, nothing else; the faster of one product into a buffer of
  ``[N, M]`` and of blocks into a buffer that stays in cache.

The literal atoms and ours are compared too: they may differ only where float32 rounding in the literal
scores decides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import interleaved, medians, options, ratio, show, started, surroundings
from torch import Tensor

from sith_hf.nnls import nnls
from sith_hf.pursuit import Pursuit


def literal(x: Tensor, atoms: Tensor, sparsity: int, coherence: float) -> Tensor:
    """METHOD.md sec. 4 as it is written, in float32 and all at once; the atoms chosen, ``[N, K]``."""
    count = len(x)
    chosen = torch.empty(count, 0, dtype=torch.long)
    codes = torch.zeros(count, len(atoms))
    residual = x
    for step in range(sparsity):
        score = residual @ atoms.T
        if step > 0:
            score += coherence * (atoms[chosen].mean(1) @ atoms.T)
        score.scatter_(1, chosen, -torch.inf)
        chosen = torch.cat([chosen, score.argmax(1, keepdim=True)], 1)
        picked = atoms[chosen].double()
        weight = nnls(picked @ picked.mT, (picked @ x.double().unsqueeze(2)).squeeze(2))
        codes.scatter_(1, chosen, weight.float())
        residual = x - codes @ atoms
    return chosen


def bare_whole(x: Tensor, atoms: Tensor, times: int) -> None:
    out = torch.empty(len(x), len(atoms))
    for _ in range(times):
        torch.matmul(x, atoms.T, out=out)


def bare_blocks(x: Tensor, atoms: Tensor, times: int) -> None:
    width = max(64, 2**21 // len(x))
    out = torch.empty(len(x), width)
    for _ in range(times):
        for start in range(0, len(atoms), width):
            block = atoms[start : start + width]
            torch.matmul(x, block.T, out=out[:, : len(block)])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(args.seed)
    atoms = torch.nn.functional.normalize(torch.randn(args.atoms, args.width, generator=generator), dim=1)
    x = torch.nn.functional.normalize(torch.randn(args.vectors, args.width, generator=generator), dim=1)
    pursuit = Pursuit(sparsity=args.sparsity, coherence_weight=args.coherence)
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: pursuit(x, atoms),
        "bare, whole": lambda: bare_whole(x, atoms, args.sparsity),
        "bare, blocks": lambda: bare_blocks(x, atoms, args.sparsity),
        "literal": lambda: literal(x, atoms, args.sparsity, args.coherence),
    }
    times = interleaved(contenders, args.repeats)
    seconds = medians(times)
    bare = min(("bare, whole", "bare, blocks"), key=seconds.__getitem__)
    ours = pursuit(x, atoms).index.sort(1).values
    same = (ours == literal(x, atoms, args.sparsity, args.coherence).sort(1).values).all(1)
    return {
        "sizes": {
            "vectors": args.vectors,
            "atoms": args.atoms,
            "width": args.width,
            "sparsity": args.sparsity,
            "lambda": args.coherence,
        },
        "median_seconds": seconds,
        "fastest_bare": bare,
        "ours_over_bare": ratio(times, "ours", bare),
        "literal_over_ours": ratio(times, "literal", "ours"),
        "vectors_with_the_literal_atoms": int(same.sum()),
        **surroundings(args.repeats),
    }


def main() -> None:
    parser = options("COMP against its literal formulation and bare matrix products", repeats=5)
    for name, default in (("vectors", 1024), ("atoms", 50_000), ("width", 768), ("sparsity", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--coherence", type=float, default=0.3, help="lambda")
    args = started(parser)
    result = measure(args)
    findings = [
        f"ours / {result['fastest_bare']}: {result['ours_over_bare']:.3f}  (bar: 1.15)",
        f"literal / ours: {result['literal_over_ours']:.2f}  (bar: 3)",
        f"same atoms as the literal form: {result['vectors_with_the_literal_atoms']} of {args.vectors} vectors",
    ]
    show("COMP", args, result, findings)


if __name__ == "__main__":
    main()
