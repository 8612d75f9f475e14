"""What the benchmarks share: options, interleaved timing, medians of ratios, and a word on where it ran."""

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
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    return parser


def interleaved(variants: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True) -> Times:
    """Seconds of each contender, in turn within every repeat, so that all see the same machine."""
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
    """The median over the repeats of one contender's time over another's."""
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def medians(times: Times) -> dict[str, float]:
    """Median seconds of each contender."""
    return {name: statistics.median(took) for name, took in times.items()}


def surroundings(repeats: int) -> dict[str, Any]:
    """Where and when a benchmark ran."""
    return {
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "host": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def started(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of this run, with the threads set."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def show(title: str, args: argparse.Namespace, result: Mapping[str, Any], findings: list[str]) -> None:
    """The result as data or as a table, as the options ask; the sizes stand behind the title."""
    if args.json:
        print(json.dumps(result))
    else:
        print_table(
            f"{title}: {', '.join(f'{name} {value}' for name, value in result['sizes'].items())}", result, findings
        )


def print_table(title: str, result: Mapping[str, Any], findings: list[str]) -> None:
    """A title, the median seconds, the findings, and the surroundings."""
    print(title)
    for name, took in result["median_seconds"].items():
        print(f"  {name:<28}{took:9.4f} s")
    for finding in findings:
        print(f"  {finding}")
    print(f"  median of {result['repeats']} interleaved repeats, {result['threads']} threads, load {result['load']}")
    versions = ", ".join(f"{name} {value}" for name, value in result["versions"].items())
    print(f"  {result['host']}; {versions}; {result['date']}")
