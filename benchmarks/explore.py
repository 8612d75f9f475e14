"""The explorer on a decomposition of the size of a ViT-L/14: how long it takes to start, and to answer a click.

    python benchmarks/explore.py             # half a minute on an idle machine

The decomposition is random, with p-values and drivers, written and read by the project's own classes: 24 layers of 16
heads, 64 vectors each, two poles, D = 1024, P = 768, K = 5, 12,000 concepts in use.

- start: a new process until the page is served, against a new process that only imports torch and Gradio.
- click: a head is opened, from the request until the last part of the page has its new content, against one event of
  an empty Gradio page. The first click comes three seconds after the start, as from a reader.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import torch
from common import interleaved, medians, options, ratio, show, started, surroundings
from torch.nn.functional import normalize

from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition import Decomposition, Drivers, Significance
from sith_hf.explore import Explorer, launch

LAYERS, HEADS, RANK, WIDTH, JOINT, WORDS, TEXTS, DRIVERS = 24, 16, 64, 1024, 768, 5, 12_000, 3000

IMPORTS = "import torch, gradio"
START = (
    "import os, sys\nfrom sith_hf.explore import Explorer, launch\n"
    "launch(Explorer.open(sys.argv[1]), port=int(sys.argv[2]), wait=False)\nos._exit(0)"
)


def main() -> None:
    parser = options("start and clicks of the explorer", repeats=3)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--port", type=int, default=7910)
    args = started(parser)
    with tempfile.TemporaryDirectory() as folder:
        made(args.seed).save_pretrained(folder)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        busy: dict[str, list[float]] = {"start": [], "imports": []}
        starts = interleaved(
            {
                "start": lambda: busy["start"].append(run(START, folder, str(args.port))),
                "imports": lambda: busy["imports"].append(run(IMPORTS)),
            },
            args.repeats,
        )
        first, clicks = measured_clicks(folder, args.port, args.clicks)
    times = {**medians(starts), "first click": first, **medians(clicks)}
    result: dict[str, Any] = {
        "sizes": {"layers": LAYERS, "heads": HEADS, "vectors": RANK, "megabytes": round(size / 1e6)},
        "median_seconds": times,
        "processor_seconds": {name: statistics.median(each) for name, each in busy.items()},
        "start_over_imports": ratio(starts, "start", "imports"),
        "processor_start_over_imports": ratio(busy, "start", "imports"),
        "click_over_empty_event": ratio(clicks, "click", "empty event"),
        **surroundings(args.repeats),
    }
    processor = result["processor_seconds"]
    findings = [
        f"start: {result['start_over_imports']:.2f} times the imports of torch and Gradio; of processor time "
        f"{result['processor_start_over_imports']:.2f} times ({processor['start']:.1f} s against "
        f"{processor['imports']:.1f} s)",
        f"click: {result['click_over_empty_event']:.1f} times an empty event",
    ]
    show("explorer", args, result, findings)


def run(code: str, *values: str) -> float:
    """Run Python code in a new process; return its processor seconds, which other programs hardly change."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, *values], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def made(seed: int) -> Decomposition:
    """Return a random decomposition."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    def descending(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw).clamp(min=0.01).sort(dim=-1, descending=True).values

    vectors, poles = (LAYERS, HEADS, RANK), (LAYERS, HEADS, RANK, 2)
    values, fidelity = descending(*vectors), torch.rand(*poles, generator=draw) / 2
    # Half of the poles are far beyond chance.
    sample = torch.rand(1, 16_000, generator=draw) / 4
    return Decomposition(
        layers=tuple(range(LAYERS)),
        singular_values=values,
        energy=(values**2).sum(-1) * 1.05,
        write=normalize(normal(*vectors, WIDTH), dim=-1),
        read=normalize(normal(*vectors, WIDTH), dim=-1),
        concept=torch.randint(0, TEXTS, (*poles, WORDS), generator=draw),
        weight=descending(*poles, WORDS),
        fidelity=fidelity,
        coherence=torch.rand(*poles, generator=draw),
        ceiling=torch.full(vectors, 0.8),
        texts=tuple(f"concept {number:05d}" for number in range(TEXTS)),
        embeddings=normalize(normal(TEXTS, JOINT), dim=-1),
        dictionary_mean=normal(JOINT) / 100,
        image_mean=torch.zeros(JOINT),
        poles=("+", "-"),
        base=BaseRef("random", None, {f"{layer} {name}": "0" for layer in range(LAYERS) for name in "abcd"}),
        settings={"fold": True, "centre": True},
        significance=Significance.of(
            fidelity, sample, [0] * LAYERS, head_sample=torch.rand(LAYERS, HEADS, 64, generator=draw) / 4
        ),
        drivers=Drivers(
            torch.randint(0, DRIVERS, (*poles, WORDS), generator=draw),
            descending(*poles, WORDS),
            tuple(f"driver {number:04d}" for number in range(DRIVERS)),
            {"count": 1000, "title": "random"},
        ),
    )


def measured_clicks(folder: str, port: int, clicks: int) -> tuple[float, dict[str, list[float]]]:
    """Return the seconds of the first click, and of further ones and of empty events in turn."""
    with gr.Blocks(analytics_enabled=False) as empty:
        button = gr.Button("empty")
        button.click(lambda: "", None, gr.HTML(), api_name="empty")
    served = launch(Explorer.open(folder), port=port, wait=False)
    empty.launch(server_port=port + 1, prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        time.sleep(3)
        page, other = Page(port), Page(port + 1)
        heads = iter([(layer, head) for layer in range(LAYERS) for head in range(1, HEADS)])

        def click() -> None:
            page.open(*next(heads))

        start = time.perf_counter()
        click()
        first = time.perf_counter() - start
        calls: dict[str, Callable[[], object]] = {"click": click, "empty event": lambda: other.event(0)}
        return first, interleaved(calls, clicks)
    finally:
        served.close()
        empty.close()


class Page:
    """A window of a Gradio page, without a browser."""

    def __init__(self, port: int) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.session = uuid.uuid4().hex
        self.config = self.client.get("/config").json()

    def open(self, layer: int, head: int) -> None:
        """Click on a head, and follow the events until the head is drawn."""
        ids = {item["props"].get("elem_id"): item["id"] for item in self.config["components"]}
        events = self.config["dependencies"]
        click = next(event["id"] for event in events if [ids["map"], "click"] in event["targets"])
        found = self.event(click, {"action": "open", "layer": str(layer), "head": str(head)})
        changed = found["changed_state_ids"]
        for event in events:
            if any([state, "change"] in event["targets"] for state in changed) and ids["head"] in event["outputs"]:
                drawn = str(self.event(event["id"])["data"])
                assert f'data-open-layer="{layer}" data-open-head="{head}"' in drawn.replace("\\", "")

    def event(self, number: int, data: dict[str, str] | None = None) -> dict[str, Any]:
        """Send an event, and return its output."""
        event = next(each for each in self.config["dependencies"] if each["id"] == number)
        request = {"data": [None] * len(event["inputs"]), "event_data": data, "fn_index": number}
        trigger = {"trigger_id": event["targets"][0][0], "session_hash": self.session}
        self.client.post("/gradio_api/queue/join", json={**request, **trigger}).raise_for_status()
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
                if message["msg"] == "process_completed":
                    assert message["success"], message["output"]
                    output: dict[str, Any] = message["output"]
                    return output
        raise AssertionError("the page closed the connection")


if __name__ == "__main__":
    main()
