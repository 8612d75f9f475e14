"""What an accelerator gives: COMP and whole decompositions on it, against the same on this machine's CPU.

    python benchmarks/gpu.py [--atoms 200000 --vectors 4096] [--million] [--layers 24]

- COMP over ``--atoms`` random unit atoms: ours on the accelerator against its K bare float32 products there (no
  TensorFloat-32), and against ours on the CPU, in turn. The atoms are compared with those of the CPU.
- With ``--million``, COMP over 1,000,000 x 768 atoms.
- A decomposition of ``--layers`` layers of a random ViT-L/14 (1024 wide, 16 heads, both poles) over 50,000 concepts
  with random embeddings; one layer on the CPU beside it, scaled up.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import torch
from common import interleaved, medians, options, ratio, show, started, surroundings
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from sith_hf import ConceptDictionary, Pursuit, SithEditor
from sith_hf.towers import text_tower_sha256

WIDTH, SPARSITY = 768, 5


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)


def synchronised(call: Any) -> Any:
    """``call`` until the accelerator has ended it."""

    def wait() -> None:
        call()
        torch.accelerator.synchronize()

    return wait


def large_model(layers: int) -> Any:
    """A random CLIP of the size of ViT-L/14 with a small text tower, which is not used."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers, "num_attention_heads": 16}
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=WIDTH)).eval()


def pursuit(device: torch.device, count: int, vectors: int, repeats: int) -> tuple[dict[str, float], list[str]]:
    """Seconds and findings of COMP over ``count`` atoms."""
    x, atoms = unit(vectors, 1), unit(count, 2)
    there, those = x.to(device), atoms.to(device)
    code = Pursuit(sparsity=SPARSITY)

    def bare() -> None:
        for _ in range(SPARSITY):
            for start in range(0, count, 2**17):
                those[start : start + 2**17] @ there.T

    calls = {
        "ours": synchronised(lambda: code(there, those)),
        "bare products": synchronised(bare),
        "ours, CPU": lambda: code(x, atoms),
    }
    times = interleaved(calls, repeats)
    same = torch.equal(code(there, those).index.cpu(), code(x, atoms).index)
    findings = [
        f"{count:,} atoms: ours / bare products {ratio(times, 'ours', 'bare products'):.3f}, "
        f"CPU / accelerator {ratio(times, 'ours, CPU', 'ours'):.1f}, atoms of the CPU: {'all' if same else 'NOT all'}"
    ]
    return {f"{name}, {count:,} atoms": took for name, took in medians(times).items()}, findings


def decomposition(device: torch.device, layers: int) -> tuple[dict[str, float], list[str]]:
    """Seconds and findings of decompositions."""
    texts = [f"concept {number}" for number in range(50_000)]
    editor = SithEditor.from_model(large_model(layers), name="random ViT-L/14")
    # A tower with a projection asks nothing of a text tower once a dictionary is encoded by it.
    fingerprint = text_tower_sha256(editor.text.model)
    concepts = replace(
        ConceptDictionary.from_texts(texts), embeddings=unit(50_000, 3), encoder="random", encoder_sha256=fingerprint
    )
    seconds, made = {}, {}
    for name, where, chosen in (("accelerator", device, None), ("CPU, one layer", torch.device("cpu"), [-1])):
        start = time.perf_counter()
        made[name] = editor.decompose(concepts, layers=chosen, device=where)
        seconds[f"decomposition, {name}"] = time.perf_counter() - start
    last, one = made["accelerator"], made["CPU, one layer"]
    words = [[explanation.concepts for explanation in item.theme(layers - 1, 0, 64)] for item in (last, one)]
    equal = sum([w for w, _ in a] == [w for w, _ in b] for a, b in zip(*words, strict=True))
    whole = seconds["decomposition, CPU, one layer"] * layers
    return seconds, [
        f"{layers} layers: CPU (scaled up from one layer) / accelerator "
        f"{whole / seconds['decomposition, accelerator']:.1f}",
        f"the same concepts in the same order for {equal} of {len(words[0])} poles of one head",
    ]


def main() -> None:
    parser = options(__doc__ or "", repeats=3)
    parser.add_argument("--atoms", type=int, default=200_000)
    parser.add_argument("--vectors", type=int, default=4096)
    parser.add_argument("--million", action="store_true", help="also 1,000,000 atoms")
    parser.add_argument("--layers", type=int, default=24)
    args = started(parser)
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        sys.exit("no accelerator on this machine: nothing was measured")
    torch.set_float32_matmul_precision("highest")
    seconds: dict[str, float] = {}
    findings: list[str] = [torch.cuda.get_device_name() if device.type == "cuda" else device.type]
    for count in (args.atoms, *([1_000_000] if args.million else [])):
        took, found = pursuit(device, count, args.vectors, args.repeats)
        seconds |= took
        findings += found
    took, found = decomposition(device, args.layers)
    seconds |= took
    findings += found
    sizes = {"atoms": args.atoms, "vectors": args.vectors, "width": WIDTH, "sparsity": SPARSITY}
    show("On an accelerator", args, {"sizes": sizes, "median_seconds": seconds, **surroundings(args.repeats)}, findings)


if __name__ == "__main__":
    main()
