"""The factored SVD of a layer's heads against the SVD of their explicit D x D products.

    python benchmarks/svd.py [--size 1024 --heads 16 --dtype float32 --threads 2 --repeats 3 --json]

- factored: ``factored_svd(B, A)`` of all heads, checks of the input included.
- explicit: ``torch.linalg.svd(B @ A)`` of the same heads, batched, the products included.

The default is an attention layer of ViT-L/14. Singular values and the rebuilt products are compared too.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import interleaved, medians, options, ratio, show, started, surroundings

from sith_hf.decomposition.svd import factored_svd


def measure(args: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(args.seed)
    head_size, dtype = args.size // args.heads, getattr(torch, args.dtype)
    write = torch.randn(args.heads, args.size, head_size, generator=generator).to(dtype) / args.size**0.5
    read = torch.randn(args.heads, head_size, args.size, generator=generator).to(dtype) / args.size**0.5
    factored_svd(write, read)  # warms up; the explicit form is long enough not to notice
    times = interleaved(
        {"factored": lambda: factored_svd(write, read), "explicit": lambda: torch.linalg.svd(write @ read)},
        args.repeats,
        warm_up=False,
    )
    ours, product = factored_svd(write, read), write @ read
    explicit = torch.linalg.svdvals(product.double())[:, :head_size]
    largest = explicit[:, :1]
    return {
        "sizes": {"size": args.size, "heads": args.heads, "head_size": head_size, "dtype": args.dtype},
        "median_seconds": {name: round(took, 5) for name, took in medians(times).items()},
        "explicit_over_factored": round(ratio(times, "explicit", "factored"), 2),
        "values_relative_error": float(((ours.values - explicit).abs() / largest).max()),
        "product_relative_error": float(((ours.matrix() - product).abs().amax(dim=(1, 2)) / largest[:, 0]).max()),
        **surroundings(args.repeats),
    }


def main() -> None:
    parser = options("factored SVD of a layer's heads against the SVD of the explicit products", repeats=3)
    parser.add_argument("--size", type=int, default=1024, help="D, the width of the residual stream")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    args = started(parser)
    result = measure(args)
    findings = [
        f"explicit / factored: {result['explicit_over_factored']:.1f}  (bar: 50)",
        f"singular values differ by {result['values_relative_error']:.1e} of the largest, "
        f"the rebuilt products by {result['product_relative_error']:.1e}",
    ]
    show("SVD", args, result, findings)


if __name__ == "__main__":
    main()
