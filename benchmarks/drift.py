"""Drift estimated from weights against drift measured on pictures, on the embedded checkpoint.

    python benchmarks/drift.py [--pictures 120 --draws 3 --groups 100 --seed 5 --threads 2 --json]

- edits: random vectors of the last layer, the last two and all, 2 to 128 of them, with gains 0, 0.5 and -1; and
  vectors of topics of the world (backgrounds, colours, objects, sizes, and three single words), at four thresholds.
- estimated: ``drift_of``. Measured: the mean of 1 - cos between image embeddings before and after, on pictures of the
  training distribution.
- bound: the largest move of a token's residual stream in an edited layer, over its bound.
- budget: backgrounds suppressed in the last two layers within limits, in parts and one by one.

Seeds are below 1000, those reserved for choosing settings.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from typing import Any

import torch
from common import options, started, surroundings
from torch import Tensor

from sith_hf import world
from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.demo import zeroshot
from sith_hf.editor import SithEditor
from sith_hf.edits.build import make_spec
from sith_hf.gains import Gains, Selection, budgeted, by_concepts, drift_shares, share_of
from sith_hf.gains.drift import drift_of
from sith_hf.world.embedded import embedded_checkpoint

SIZES = (2, 4, 8, 16, 32, 64, 128)
LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Topic vectors with a lower share stay unedited.
LEAST_SHARE = 0.2


def edits(editor: SithEditor, draws: int, seed: int) -> Iterator[tuple[str, Gains]]:
    """Return edits of many sizes: (kind, gains)."""
    made, rng = editor.decomposition, random.Random(seed)
    last = made.layers[-1]
    for name, layers in (("last layer", [last]), ("last two", [last - 1, last]), ("all layers", list(made.layers))):
        keys = [(layer, h, v) for layer in layers for h in range(made.num_heads) for v in range(made.rank)]
        for size in SIZES:
            for gain in (*[0.0] * draws, -1.0, 0.5):
                if size <= len(keys):
                    yield f"random, {name}", Gains(dict.fromkeys(rng.sample(keys, size), gain))
    topics = {"backgrounds": world.BACKGROUNDS, "colours": world.COLOURS, "objects": world.OBJECTS}
    topics |= {"sizes": world.SIZES, "sea": ("sea",), "red": ("red",), "car": ("car",)}
    for concepts in topics.values():
        for layers in ([-1], [-2, -1], None):
            for threshold in (0.3, 0.5, 0.7, 0.9):
                chosen = by_concepts(made, editor.embed(*concepts), 0.0, threshold=threshold, select=Selection(layers))
                if len(chosen):
                    yield "topic", chosen


def ranks(values: Tensor) -> Tensor:
    """Return ranks; equal values share theirs."""
    return ((values[:, None] > values).sum(1) + (values[:, None] >= values).sum(1)).double()


def spearman(x: Tensor, y: Tensor) -> float:
    """Return the rank correlation."""
    return float(torch.corrcoef(torch.stack([ranks(x), ranks(y)]))[0, 1])


def calibration(editor: SithEditor, drift: Tensor, images: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return estimated and measured drift of every edit."""
    before = zeroshot.embed_images(editor.model, images)
    rows = []
    for kind, gains in edits(editor, args.draws, args.seed):
        with editor.applied(make_spec(editor.tower, editor.decomposition, gains)) as model:
            after = zeroshot.embed_images(model, images)
        measured = float((1 - (before * after).sum(-1)).mean())
        estimated = drift_of(editor.decomposition, drift, gains)
        rows.append({"kind": kind, "vectors": len(gains), "estimated": estimated, "measured": measured})
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rank correlation, and quantiles of measured over estimated drift."""
    estimated, measured = (torch.tensor([row[key] for row in rows]).double() for key in ("estimated", "measured"))
    ratio = (measured / estimated).quantile(torch.tensor(QUANTILES).double())
    return {
        "edits": len(rows),
        "rank_correlation": round(spearman(estimated, measured), 3),
        "measured_over_estimated": [round(value, 2) for value in ratio.tolist()],
        "measured_above_estimate": round(float((measured > estimated).double().mean()), 2),
    }


def residual_bound(made: Decomposition, gains: Gains) -> float:
    """sqrt(D) * sum over heads of max |1 - g_i| s_i, for an edit of one layer: see ``tests/gains/test_drift.py``."""
    largest: dict[int, float] = {}
    for (layer, head, vector), gain in gains.gain.items():
        moved = abs(1 - gain) * made.explain(layer, head, vector).singular_value
        largest[head] = max(moved, largest.get(head, 0.0))
    return math.sqrt(made.write.shape[-1]) * sum(largest.values())


def topic_removed(made: Decomposition, gains: Gains, share: Tensor, drift: Tensor) -> float:
    """The part of a topic that an edit removes, of what heads write into the joint space: 0 nothing, 1 all of it."""
    content = (share * drift).double()
    taken = torch.zeros_like(content)
    for (layer, head, vector), gain in gains.gain.items():
        taken[made.position(layer), head, vector] = 1 - min(1.0, max(0.0, gain))
    return float((taken * content).sum() / content.sum())


def largest_moves(editor: SithEditor, images: Any, args: argparse.Namespace) -> list[float]:
    """Return for edits of one layer the largest move of a token's residual there, over the bound."""
    found = []
    for _, gains in edits(editor, 1, args.seed):
        layers = {key[0] for key in gains.gain}
        if len(layers) != 1:
            continue
        (layer,) = layers
        module = editor.model.vision_model.encoder.layers[layer].self_attn
        outputs: list[Tensor] = []
        handle = module.register_forward_hook(lambda _, __, out, to=outputs: to.append(out[0]))
        spec = make_spec(editor.tower, editor.decomposition, gains)
        zeroshot.embed_images(editor.model, images)
        with editor.applied(spec) as model:
            zeroshot.embed_images(model, images)
        handle.remove()
        half = len(outputs) // 2
        moved = (torch.cat(outputs[half:]) - torch.cat(outputs[:half])).norm(dim=-1).max()
        found.append(float(moved) / residual_bound(editor.decomposition, gains))
    return found


def budgets(editor: SithEditor, drift: Tensor, images: Any, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Suppress backgrounds within limits: edited vectors, drift, and accuracy of groups."""
    made: Decomposition = editor.decomposition
    queries = editor.embed(*world.BACKGROUNDS)
    select = Selection([-2, -1], both_poles=True)
    share = share_of(made, queries, select=select)
    wanted = by_concepts(made, queries, 0.0, threshold=LEAST_SHARE, select=select)
    before = zeroshot.embed_images(editor.model, images)
    tokenizer = editor.text.tokenizer
    rows = []
    choices = [("no edit", 0.0, Gains())]
    for limit in LIMITS:
        choices += [
            (name, limit, budgeted(made, wanted, share, drift, limit, whole=whole))
            for name, whole in (("in parts", False), ("one by one", True))
        ]
    for name, limit, gains in choices:
        with editor.applied(make_spec(editor.tower, made, gains)) as model:
            after = zeroshot.embed_images(model, images)
            groups = [
                zeroshot.groups(model, tokenizer, pair, args.groups, args.seed + 50 * i)
                for i, pair in enumerate(world.TIED_PAIRS)
            ]
        rows.append(
            {
                "how": name,
                "limit": limit,
                "vectors": len(gains),
                "topic_removed": round(topic_removed(made, gains, share, drift), 3),
                "estimated": round(drift_of(made, drift, gains), 4),
                "measured": round(float((1 - (before * after).sum(-1)).mean()), 4),
                "worst_group": min(min(item.values()) for item in groups),
                "average": sum(sum(item.values()) / len(item) for item in groups) / len(groups),
            }
        )
    return rows


def measure(args: argparse.Namespace) -> dict[str, Any]:
    editor = SithEditor.from_pretrained(embedded_checkpoint())
    editor.decompose(ConceptDictionary.from_texts(world.concepts()))
    drift = drift_shares(editor.tower, editor.decomposition)
    images = world.render(world.sample_training(args.pictures, args.seed), args.seed + 1)
    rows = calibration(editor, drift, images, args)
    kinds = {"all edits": rows}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    return {
        "sizes": {"pictures": args.pictures, "draws": args.draws, "groups": args.groups, "seed": args.seed},
        "calibration": {kind: summary(items) for kind, items in kinds.items()},
        "residual_move_over_bound": [
            round(v, 3)
            for v in torch.tensor(largest_moves(editor, images, args)).quantile(torch.tensor(QUANTILES)).tolist()
        ],
        "budget": budgets(editor, drift, images, args),
        "edits": rows,
        **surroundings(1),
    }


def main() -> None:
    parser = options("drift estimated from weights against measured drift", repeats=1)
    parser.set_defaults(seed=5)
    parser.add_argument("--pictures", type=int, default=120)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--groups", type=int, default=100, help="pictures of each group")
    args = started(parser)
    if args.json:
        import json

        print(json.dumps(measure(args)))
        return
    result = measure(args)
    print(f"Drift: {', '.join(f'{name} {value}' for name, value in result['sizes'].items())}")
    print(f"  measured over estimated, at {', '.join(f'{q:.0%}' for q in QUANTILES)}, and the rank correlation")
    for kind, item in result["calibration"].items():
        ratios = "  ".join(f"{value:5.2f}" for value in item["measured_over_estimated"])
        print(f"  {kind:<20}{item['edits']:4d} edits   {ratios}   {item['rank_correlation']:.3f}")
    print(f"  largest move of a residual over its bound, likewise: {result['residual_move_over_bound']}")
    print("  backgrounds within a limit:")
    for row in result["budget"]:
        print(
            f"  {row['how']:<11}limit {row['limit']:<5g} {row['vectors']:3d} vectors, topic removed "
            f"{row['topic_removed']:.2f}, drift estimated {row['estimated']:.3f} measured {row['measured']:.3f}, "
            f"worst group {row['worst_group']:.2f} average {row['average']:.2f}"
        )


if __name__ == "__main__":
    main()
