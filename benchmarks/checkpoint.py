"""Editing a large checkpoint against ``cp -r`` of its folder: seconds and peak resident memory.

    python benchmarks/checkpoint.py [--gigabytes 3 --files 1 3 --edited-layers 4 --repeats 3 --folder /tmp --json]

A random CLIPModel in float32 with a vision tower of ViT-H/14's width, with its layers chosen by size, in one file and
in several. ``cp -r``, ``save-edited``, ``verify``, ``revert``, ``push-edited --dry-run`` and the imports of these
commands run in turn, each in its own process and each first in another repeat. Two measurements:

- cold: the checkpoints are not in the page cache, and the time lasts until all data are on the disk.
- warm: the checkpoints are in the page cache, and the time lasts until the command returns.

"without start" is the time minus that of the imports. Memory is the larger ``ru_maxrss`` of the process and its
children; pages of memory-mapped files count. The Hub is a server on this machine that has
no repository yet; from 2 GB on, a dry run does not run the code of the card. Needs five times the size on the disk
of ``--folder``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Times, medians, options, ratio, show, started, surroundings

from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.edits.spec import EditSpec
from sith_hf.towers.weights import INDEX, SINGLE, Checkpoint

WIDTH, HEADS, TEXT_WIDTH, TEXT_LAYERS = 1280, 16, 768, 12
PIECE = 64 * 2**20
COPY, START = "cp -r", "imports alone"

# A small process starts the measured one, which would otherwise be charged with the memory of this process.
MEASURE = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(pid, 0)
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]))
"""


def shapes(gigabytes: float, folder: Path) -> dict[str, tuple[int, ...]]:
    """Return shapes of a CLIPModel of about this size, and write its configuration into ``folder``."""
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 49408, "hidden_size": TEXT_WIDTH, "intermediate_size": 4 * TEXT_WIDTH}
    text |= {"num_attention_heads": 12, "num_hidden_layers": TEXT_LAYERS, "projection_dim": 1024}
    vision = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS}
    vision |= {"image_size": 224, "patch_size": 14, "projection_dim": 1024}
    rest = 4 * (49408 * TEXT_WIDTH + 12 * TEXT_WIDTH**2 * TEXT_LAYERS)
    layers = max(1, round((gigabytes * 1e9 - rest) / (4 * 12 * WIDTH**2)))
    config = CLIPConfig(text_config=text, vision_config={**vision, "num_hidden_layers": layers}, projection_dim=1024)
    config.architectures = ["CLIPModel"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = CLIPModel(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def make(folder: Path, gigabytes: float, files: int, seed: int) -> int:
    """Write a checkpoint of random weights, one tensor at a time, and return its number of layers."""
    folder.mkdir()
    wanted = shapes(gigabytes, folder)
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in wanted.items()}
    order = {name: i for i, name in enumerate(wanted)}
    groups: list[list[str]] = [[]]
    for name in wanted:
        if sum(sizes[other] for other in groups[-1]) >= sum(sizes.values()) / files:
            groups.append([])
        groups[-1].append(name)
    noise = (np.random.default_rng(seed).standard_normal(PIECE // 4, dtype=np.float32) * 0.02).data.cast("B")
    names = (
        [SINGLE] if files == 1 else [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    )
    for name, group in zip(names, groups, strict=True):
        header, at = {}, 0
        for key in group:
            header[key] = {"dtype": "F32", "shape": wanted[key], "data_offsets": [at, at + sizes[key]]}
            at += sizes[key]
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        with (folder / name).open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for key in group:
                # Each tensor starts at another offset of the noise, so that all differ.
                left, start = sizes[key], 4 * (order[key] * 7919 % 100_000)
                while left:
                    left -= file.write(noise[start : start + left])
                    start = 0
    if files > 1:
        weight_map = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        (folder / INDEX).write_text(
            json.dumps({"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})
        )
    return sum(name.endswith("self_attn.out_proj.bias") and name.startswith("vision") for name in wanted)


def make_spec(folder: Path, layers: list[int], target: Path) -> None:
    """Return an edit of 8 random directions in each layer."""
    checkpoint = Checkpoint.read(folder)
    keys = [(layer, head, 0) for layer in layers for head in range(0, HEADS, 2)]
    generator = torch.Generator().manual_seed(1)
    write = torch.randn(len(keys), WIDTH, generator=generator)
    columns = torch.tensor(keys).T.contiguous()
    parts = ("layer_norm1", "self_attn.v_proj", "self_attn.out_proj")
    stems = [f"vision_model.encoder.layers.{layer}.{part}" for layer in layers for part in parts]
    names = [f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")]
    EditSpec.from_terms(
        layer=columns[0],
        head=columns[1],
        vector=columns[2],
        gain=torch.zeros(len(keys), dtype=torch.float64),
        write=write / write.norm(dim=-1, keepdim=True),
        row=torch.randn(len(keys), WIDTH // HEADS, generator=generator) * 0.1,
        constant=torch.randn(len(keys), generator=generator) * 0.1,
        labels=[f"+ sea {i} | - road {i}" for i in range(len(keys))],
        base=BaseRef(str(folder), None, {name: tensor_sha256(checkpoint.tensor(name)) for name in names}),
        settings={"fold": True, "centre": True},
    ).save_pretrained(target)


class EmptyHub(BaseHTTPRequestHandler):
    """A Hub without repositories."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def run(command: list[str], environment: Mapping[str, str]) -> tuple[float, int]:
    """Return the seconds and the peak resident bytes of a command."""
    done = subprocess.run(
        [sys.executable, "-ISc", MEASURE, *command], env=environment, capture_output=True, text=True, check=True
    )
    seconds, memory, code = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds, memory


def files_of(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def settle(cold: bool, *folders: Path) -> None:
    """Flush writes, and load these folders into the page cache or drop them from it."""
    os.sync()
    for path in files_of(*folders):
        with path.open("rb", buffering=0) as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while not cold and file.read(2**18):
                pass


def to_disk(folder: Path) -> float:
    """Return the seconds to flush a folder to the disk."""
    start = time.perf_counter()
    for path in files_of(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - start


def measure_form(args: Any, scratch: Path, files: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """Measure each command on a checkpoint of ``files`` files, with a cold and a warm page cache."""
    base, edited, spec, out = (scratch / name for name in ("base", "edited", "spec", "out"))
    layers = make(base, args.gigabytes, files, args.seed)
    make_spec(base, list(range(layers))[-args.edited_layers :], spec)
    ours = [sys.executable, "-m", "sith_hf"]
    commands = {
        COPY: ["cp", "-r", str(base), str(out)],
        START: [sys.executable, "-c", "import sith_hf.checkpoint.verify, sith_hf.cli"],
        "save-edited": [*ours, "save-edited", str(base), "--spec", str(spec), "-o", str(out)],
        "verify": [*ours, "verify", str(edited)],
        "revert": [*ours, "revert", str(edited), "-o", str(out)],
        "push-edited --dry-run": [*ours, "push-edited", str(edited), "--repo-id", "me/edited", "--dry-run"],
    }
    run([*commands["save-edited"][:-1], str(edited)], environment)
    names, found = list(commands), {}
    for state in ("cold", "warm"):
        times: Times = {name: [] for name in commands}
        memory = dict.fromkeys(commands, 0)
        for repeat in range(args.repeats):
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                settle(state == "cold", base, edited)
                seconds, most = run(commands[name], environment)
                times[name].append(seconds + (to_disk(out) if state == "cold" else 0))
                memory[name] = max(memory[name], most)
                shutil.rmtree(out, ignore_errors=True)
        work = {name: [t - s for t, s in zip(times[name], times[START], strict=True)] for name in names}
        work[COPY] = times[COPY]
        found[state] = {
            "seconds": times,
            "median_seconds": medians(times),
            "ratio_to_cp": {name: ratio(times, name, COPY) for name in names},
            "ratio_to_cp_without_start": {name: ratio(work, name, COPY) for name in names},
            "megabytes": {name: round(most / 1e6) for name, most in memory.items()},
        }
    for folder in (base, edited, spec):
        shutil.rmtree(folder)
    return found


def measure(args: Any) -> dict[str, Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), EmptyHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    forms: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sith-bench-", dir=args.folder) as name:
        scratch = Path(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(scratch / "home"),
            "TMPDIR": name,
            "OMP_NUM_THREADS": str(args.threads),
        }
        for files in args.files:
            forms[f"{files} file{'s' if files > 1 else ''}"] = measure_form(args, scratch, files, environment)
    server.shutdown()
    return {
        "sizes": {"gigabytes": args.gigabytes, "edited layers": args.edited_layers},
        "median_seconds": {},
        "forms": forms,
        **surroundings(args.repeats),
    }


def main() -> None:
    parser = options("editing a large checkpoint against cp -r", repeats=3)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--files", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--edited-layers", type=int, default=4, help="how many of the last layers the edit touches")
    parser.add_argument("--folder", help="where the temporary folder goes")
    args = started(parser)
    result = measure(args)
    findings = []
    for form, states in result["forms"].items():
        for state, found in states.items():
            findings.append(f"{form + ', ' + state:<28}{'seconds':>9}{'to cp -r':>10}{'without start':>15}{'MB':>6}")
            for name, seconds in found["median_seconds"].items():
                ratios = f"{found['ratio_to_cp'][name]:10.2f}{found['ratio_to_cp_without_start'][name]:15.2f}"
                findings.append(f"  {name:<26}{seconds:9.2f}{ratios}{found['megabytes'][name]:6d}")
    show("Large checkpoint", args, result, findings)


if __name__ == "__main__":
    main()
