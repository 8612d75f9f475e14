"""How much of what explanations say is true? Every method of words against measured effects, on three checkpoints.

    python benchmarks/truth.py FOLDER [--seeds 0 1 2] [--threads 1] [--json] [--markdown FILE] [--plot FILE.png]

The drawn world is the only place where the truth is known: each singular vector is removed on pictures whose content is
known, and its coefficients are compared over what pictures show (``truth_world.py`` defines both truths). Seed 0
is the embedded checkpoint; FOLDER/world-seedN is trained first if it is not there (``python -m sith_hf.demo.train``,
1,500 steps; an interrupted training resumes). Measured effects are kept in FOLDER/truth, words in FOLDER/words until
the package changes, so an interrupted run goes on where it stopped. Delete FOLDER/truth after a change of
``truth_world.py``.

Measures, for poles (both signs of every vector):

- top: share of poles whose first word is true, of poles that have words.
- precision: share of true words, of all words.
- speaking: share of poles that have words.
- energy ...: the same, weighted by squared singular values.

In brackets: 95 % bootstrap interval over checkpoints and heads. "Against": difference to COMP 0.3 of the same samples.

Pictures of the truth have seeds from ``--seed`` on; images that methods look at have another one. Nothing was chosen on
either: ``--seed`` and ``--seeds`` repeat everything on others.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import options, started, surroundings
from truth_methods import BASELINE, Checkpoint, readings
from truth_scores import Sums, bootstrap, counted, interval, together
from truth_world import measure, true_values

from sith_hf import world
from sith_hf.charts import FAINT, GRID, INK, SERIES, blank_figure, dress, write_figure
from sith_hf.demo import train

# What is told of each pole: its name in tables, and the field of Truth.
SIDES = {"written": "what a vector writes", "driven": "what drives it"}
MEASURES = ("top", "precision", "speaking")
# The rows of the tables with intervals; the others are in the long one.
MAIN = (
    "random words",
    "COMP 0.2",
    "COMP 0.3",
    "COMP 0.4",
    "OMP",
    "top-k",
    "MP",
    "lasso",
    "COMP 0.3, image mean of pictures",
    "COMP 0.3, beyond chance",
    "COMP 0.3, heavy words",
    "COMP 0.3, heavy words, beyond chance",
    "COMP 0.3, total effect on leaves",
    "COMP 0.3, total effect on leaves, beyond chance",
    "COMP 0.3, total effect on leaves, heavy words",
    "COMP 0.3, total effect on pictures",
    "driven by, leaves, beyond chance",
    "driven by, pictures, beyond chance",
    "TextSpan-like, of the vector, pictures",
    "CLIP-Dissect-like, soft WPMI, pictures",
    "CLIP-Dissect-like, cosine cubed, pictures",
)
# The methods in the picture.
DRAWN = {
    "random words": "random words",
    "TextSpan-like, of the vector, pictures": "TextSpan-like",
    "CLIP-Dissect-like, soft WPMI, pictures": "CLIP-Dissect-like",
    "COMP 0.3": "COMP",
    "COMP 0.3, beyond chance": "COMP, beyond chance",
    "COMP 0.3, total effect on leaves": "COMP, total effect",
    "driven by, leaves, beyond chance": "driven by, leaves",
    "driven by, pictures, beyond chance": "driven by, pictures",
}


def checkpoint_of(folder: Path, seed: int) -> Path:
    """Return the folder of the checkpoint of a seed; train it if it is not there."""
    if seed == 0:
        return world.embedded_checkpoint()
    path = folder / f"world-seed{seed}"
    if not (path / "evaluation.json").exists():
        with contextlib.redirect_stdout(sys.stderr):
            train.main(["-o", str(path), "--seed", str(seed), "--resume"])
    return path


def counts_of(folder: Path, seed: int, args: Any) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Return the counts of one checkpoint: by truth, method and measure."""
    found = Checkpoint(checkpoint_of(folder, seed), folder, args.seed + 500)
    truth = measure(
        found.editor.model,
        found.made,
        found.values,
        folder / "truth",
        pictures=args.pictures,
        labelled=args.labelled,
        seed=args.seed,
    )
    true = {side: true_values(getattr(truth, side), args.share) for side in SIDES}
    counts: dict[str, dict[str, dict[str, torch.Tensor]]] = {side: {} for side in SIDES}
    for name, reading in readings(found):
        print(f"seed {seed}: {name}", file=sys.stderr, flush=True)
        for side in SIDES:
            counts[side][name] = counted(reading, true[side], found.names, found.energy, found.made.num_heads)
    return counts


def figures(sums: Mapping[str, Sums], base: Mapping[str, Sums], layers: int) -> dict[str, Any]:
    """Return all shares of a method with their intervals."""
    any_sum = sums["top"].above
    picks = bootstrap(any_sum.shape[0], any_sum.shape[2])
    parts: dict[str, Sequence[int]] = {str(layer): [layer] for layer in range(layers)}
    parts |= {"all": range(layers)}
    found: dict[str, Any] = {}
    for name, sum_ in sums.items():
        found[name] = {}
        for part, which in parts.items():
            drawn = sum_.drawn(which, picks)
            against = drawn - base[name].drawn(which, picks)
            found[name][part] = {
                "share": known(sum_.share(which)),
                "interval": interval(drawn),
                "against": known(sum_.share(which) - base[name].share(which)),
                "against_interval": interval(against),
                "by_checkpoint": [known(share) for share in sum_.by_checkpoint(which)],
            }
    return found


def known(value: float) -> float | None:
    """Return a number as JSON has it: None for a share of nothing."""
    return value if math.isfinite(value) else None


def results(folder: Path, args: Any) -> dict[str, Any]:
    """Return the figures of all methods over all checkpoints."""
    parts = [counts_of(folder, seed, args) for seed in args.seeds]
    found: dict[str, Any] = {}
    for side in SIDES:
        joined = {name: together([part[side][name] for part in parts]) for name in parts[0][side]}
        layers = next(iter(joined.values()))["top"].above.shape[1]
        found[side] = {name: figures(sums, joined[BASELINE], layers) for name, sums in joined.items()}
    return found


def cell(item: Mapping[str, Any], *, ends: bool = True) -> str:
    """Return a share in percent, with its interval."""
    if item["share"] is None:
        return ""
    low, high = item["interval"]
    return f"{100 * item['share']:.0f}" + (f" [{100 * low:.0f}, {100 * high:.0f}]" if ends else "")


def tables(found: Mapping[str, Any]) -> str:
    """Return the Markdown of all tables."""
    lines: list[str] = []
    for side, title in SIDES.items():
        rows = found[side]
        layers = [name for name in rows[BASELINE]["top"] if name != "all"]
        for measure_, heading in (("top", "first word true"), ("precision", "true words, of all words")):
            lines += [f"### {title.capitalize()}: {heading}, %", ""]
            lines.append(
                f"| words | poles with words | layer {' | '.join(layers)} | all | all, by energy | against {BASELINE} |"
            )
            lines.append("|---|---:|" + "---|" * (len(layers) + 3))
            # The first word is heavy.
            shown = [name for name in MAIN if measure_ == "precision" or "heavy" not in name]
            for name in shown:
                row = rows[name]
                change, (low, high) = row[measure_]["all"]["against"], row[measure_]["all"]["against_interval"]
                cells = [cell(row["speaking"]["all"], ends=False)]
                cells += [cell(row[measure_][part]) for part in [*layers, "all"]]
                cells.append(cell(row[f"energy {measure_}"]["all"]))
                cells.append("" if name == BASELINE else f"{100 * change:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]")
                lines.append(f"| {name} | {' | '.join(cells)} |")
            lines.append("")
    lines += ["### Every method, all layers, %", ""]
    lines.append("| words | poles with words | written: first | all words | driven: first | all words |")
    lines.append("|---|---:|---:|---:|---:|---:|")
    for name, row in found["written"].items():
        cells = [cell(row["speaking"]["all"], ends=False)]
        cells += [cell(found[side][name][key]["all"], ends=False) for side in SIDES for key in ("top", "precision")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw the first words by method (rows) and layer, with intervals, a block of panels for each truth."""
    layers = [name for name in found["written"][BASELINE]["top"] if name != "all"]
    places, finding = range(len(DRAWN)), found["written"][BASELINE]["top"]
    with blank_figure(9.4, 7.4) as figure:
        first, last = (100 * finding[layer]["share"] for layer in (layers[0], layers[-1]))
        title = f"First words of COMP say what a vector writes: {first:.0f} % in layer 0, {last:.0f} % in the last"
        figure.suptitle(title, x=0.02, ha="left", fontsize=12, color=INK)
        panels = figure.subplots(len(SIDES), len(layers), sharex=True, sharey=True)
        for row, (side, about) in zip(panels, SIDES.items(), strict=True):
            for panel, layer in zip(row, layers, strict=True):
                items = [found[side][name]["top"][layer] for name in DRAWN]
                panel.hlines(places, 0, 100, color=GRID, linewidth=0.8)
                panel.hlines(places, *([100 * (i["interval"][end] or 0) for i in items] for end in (0, 1)), color=FAINT)
                panel.plot([100 * (i["share"] or 0) for i in items], places, "o", color=SERIES[0], markersize=6)
                panel.set(xlim=(-3, 103), ylim=(len(DRAWN) - 0.5, -0.5))
                panel.set_yticks(places, list(DRAWN.values()))
                panel.tick_params(axis="y", length=0, labelcolor=INK)
                below = "first word true, %" if side == list(SIDES)[-1] else ""
                dress(panel, title=f"layer {layer}", x=below, y=about if layer == layers[0] else "", grid=False)
        write_figure(figure, path)


def main() -> None:
    parser = options("words of explanations against what is true", repeats=1)
    parser.set_defaults(seed=5000)
    parser.add_argument("folder", type=Path, help="of trained checkpoints and measured effects")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the checkpoints")
    parser.add_argument("--pictures", type=int, default=300, help="on which each vector is removed")
    parser.add_argument("--labelled", type=int, default=1500, help="pictures for what drives vectors")
    parser.add_argument("--share", type=float, default=0.5, help="of the largest effect, from which on a value is true")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--plot", type=Path, help="write the picture to this file")
    args = started(parser)
    args.folder.mkdir(parents=True, exist_ok=True)
    found = results(args.folder, args)
    if args.plot:
        draw(found, args.plot)
    if args.markdown:
        args.markdown.write_text(tables(found))
    if args.json:
        print(json.dumps({"figures": found, "seeds": args.seeds, "share": args.share, **surroundings(1)}))
    elif not args.markdown:
        print(tables(found))


if __name__ == "__main__":
    main()
