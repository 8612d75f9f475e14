"""How should a direction and what later layers make of it be added? Candidates, against what vectors truly write.

    python benchmarks/total_effect.py [--images 64 --pictures 120 --threads 2 --json]

On the embedded checkpoint (4 minutes of CPU). p is the direct effect of a unit direction w, of length 1, J w its total
effect, which has the scale of the residual stream. Each candidate is explained by COMP (K = 5, lambda = 0.3).

- |J w|: the mean length of J w, by layer.
- top: share of poles whose first word is truly written, by layer; precision: of all words, mean over layers.
- AUC: how well a cosine, or the fidelity, tells the poles of the first two layers whose first word is true.

Truth is that of ``truth_world.py``: each vector is removed on pictures whose content is known.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import options, started, surroundings
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from truth_methods import Checkpoint
from truth_world import measure, true_values

from sith_hf import world
from sith_hf.decomposition import TotalEffect, measure_total_effect
from sith_hf.images import BASE, DatasetSettings, first_images, images_named, model_variants
from sith_hf.pursuit import Pursuit

Candidate = Callable[[Tensor, Tensor], Tensor]


def unit(values: Tensor) -> Tensor:
    """Return unit vectors."""
    return normalize(values, dim=-1)


CANDIDATES: dict[str, Candidate] = {
    "p": lambda p, change: p,
    "p + J w": lambda p, change: p + change,
    "p + J w / |J w|": lambda p, change: p + unit(change),
    "p + J w / mean |J w| of the layer": lambda p, change: (
        p + change / change.norm(dim=-1, keepdim=True).mean(dim=(1, 2), keepdim=True)
    ),
    "p + 2 J w / |J w|": lambda p, change: p + 2 * unit(change),
    "J w": lambda p, change: change,
}


def auc(values: Tensor, right: Tensor) -> float:
    """Return the probability that a value where something is right is larger than one where it is not."""
    above, below = values[right], values[~right]
    larger = (above[:, None] > below).double() + (above[:, None] == below).double() / 2
    return float(larger.mean())


def effects(found: Checkpoint, images: int, seed: int) -> dict[str, TotalEffect]:
    """Return the total effect over drawn leaves and over pictures of the world."""
    (variant,) = model_variants(found.editor, {BASE: None})
    sources = {
        "leaves": images_named("leaves", images),
        "pictures": DatasetSettings(world="balanced", seed=seed + 700, pictures=images),
    }
    model, tower = found.editor.model, found.editor.tower
    return {
        name: measure_total_effect(model, tower, first_images(variant, data, images)[0])
        for name, data in sources.items()
    }


def results(args: Any) -> dict[str, Any]:
    """Return the figures of every candidate for each source of images."""
    with tempfile.TemporaryDirectory() as work:
        found = Checkpoint(world.embedded_checkpoint(), Path(work), args.seed + 500)
        truth = measure(
            found.editor.model, found.made, found.values, Path(work) / "truth",
            pictures=args.pictures, labelled=args.pictures, seed=args.seed,
        )  # fmt: skip
        true = true_values(truth.written)
        made, tower = found.made, found.editor.tower
        write = made.write.double().flatten(1, 2)
        poles = torch.stack([write, -write], dim=2)
        p = torch.stack([tower.to_joint(each, layer=layer) for layer, each in zip(made.layers, poles, strict=True)])
        rows: dict[str, Any] = {}
        for source, effect in effects(found, args.images, args.seed).items():
            parts = zip(made.layers, poles, strict=True)
            change = torch.stack([effect.change(each, layer) for layer, each in parts])
            rows[source] = {"length": change.norm(dim=-1).mean(dim=(1, 2)).tolist(), "candidates": {}}
            for name, candidate in CANDIDATES.items():
                code = Pursuit()(unit(candidate(p, change)).flatten(0, 2).float(), found.concepts.atoms)
                values = found.names[code.index.clamp(min=0)].reshape(*p.shape[:3], -1)
                said = ((code.index >= 0) & (code.weight > 0)).reshape(values.shape)
                right = true.gather(-1, values) & said
                top = right[..., 0]
                rows[source]["candidates"][name] = {
                    "top": top.double().mean(dim=(1, 2)).tolist(),
                    "precision": float((right.sum(dim=(1, 2, 3)) / said.sum(dim=(1, 2, 3))).mean()),
                }
                if name == "p":
                    early = top[:2].flatten()
                    cosine = cosine_similarity(p, change, dim=-1)[:2].flatten()
                    fidelity = made.fidelity.flatten(1, 2)[:2].flatten()
                    rows[source]["auc"] = {"cosine": auc(cosine, early), "fidelity": auc(fidelity, early)}
    return rows


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "", repeats=1)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=120)
    args = started(parser)
    rows = results(args)
    if args.json:
        print(json.dumps({"rows": rows, **surroundings(1)}))
        return
    for source, found in rows.items():
        lengths = " ".join(f"{value:.3f}" for value in found["length"])
        print(f"\n{source}: |J w| {lengths}; AUC cosine {found['auc']['cosine']:.2f}", end="")
        print(f", fidelity {found['auc']['fidelity']:.2f}")
        for name, row in found["candidates"].items():
            tops = " ".join(f"{value:.2f}" for value in row["top"])
            print(f"{name:36s} top {tops}   precision {row['precision']:.3f}")


if __name__ == "__main__":
    main()
