"""Common parts of the benchmarks: options, interleaved timing, medians of ratios, and the environment."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Times = dict[str, list[float]]


def options(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    return parser


def interleaved(variants: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True) -> Times:
    """Time each variant in turn within every repeat, so that all run under the same load."""
    times: Times = {name: [] for name in variants}
    for repeat in range(repeats + warm_up):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            took = time.perf_counter() - start
            if repeat >= warm_up:
                times[name].append(took)
    return times


def ratio(times: Times, above: str, below: str) -> float:
    """Return the median over repeats of one variant's time divided by another's."""
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def medians(times: Times) -> dict[str, float]:
    """Return the median seconds of each variant."""
    return {name: statistics.median(took) for name, took in times.items()}


def surroundings(repeats: int) -> dict[str, Any]:
    """Describe where and when a benchmark ran."""
    return {
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "host": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def started(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the options and set the number of threads."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def show(title: str, args: argparse.Namespace, result: Mapping[str, Any], findings: list[str]) -> None:
    """Print the result as JSON or, with its sizes in the title, as a table."""
    if args.json:
        print(json.dumps(result))
    else:
        print_table(
            f"{title}: {', '.join(f'{name} {value}' for name, value in result['sizes'].items())}", result, findings
        )


def print_table(title: str, result: Mapping[str, Any], findings: list[str]) -> None:
    """Print a title, median seconds, findings, and the environment."""
    print(title)
    for name, took in result["median_seconds"].items():
        print(f"  {name:<28}{took:9.4f} s")
    for finding in findings:
        print(f"  {finding}")
    print(f"  median of {result['repeats']} interleaved repeats, {result['threads']} threads, load {result['load']}")
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    print(f"  {result['host']}; {versions}; {result['date']}")
