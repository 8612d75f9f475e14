"""Accuracy after random edits of growing size, beside their impact: what the limits of an edit rest on.

    python benchmarks/impact.py     # the embedded world, about half a minute

For each share of all vectors: as many random vectors removed, several draws. Printed: the mean over draws of the energy
and of the estimated drift (``Edit.impact``), and zero-shot accuracy, the mean over the five kinds of words of
``single_words.py``.
"""

from __future__ import annotations

import json
import random
import statistics

from common import options, started, surroundings
from single_words import Measure, embedded_kinds

from sith_hf import ConceptDictionary, SithEditor, world
from sith_hf.edits import make_spec
from sith_hf.gains import Gains, impact_of

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


def main() -> None:
    parser = options("accuracy after random edits, beside their impact", repeats=1)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=200)
    args = started(parser)
    editor = SithEditor.from_pretrained(world.embedded_checkpoint())
    made = editor.decompose(ConceptDictionary.from_texts(world.concepts()))
    measure = Measure(editor, embedded_kinds([args.seed], args.pictures))
    keys = [(n, h, v) for n in made.layers for h in range(made.num_heads) for v in range(made.rank)]
    rows = []
    for share in SHARES:
        found = []
        for draw in range(args.draws):
            chosen = random.Random(args.seed + draw).sample(keys, round(share * len(keys)))
            gains = Gains(dict.fromkeys(chosen, 0.0))
            impact = impact_of(editor.tower, made, gains.gain)
            right = measure.right(make_spec(editor.tower, made, gains) if chosen else None)
            accuracy = statistics.mean(float(values.mean()) for values in right.values())
            found.append((impact.energy, impact.drift, accuracy))
        energy, drift, accuracy = (statistics.mean(values) for values in zip(*found, strict=True))
        rows.append({"share": share, "energy": energy, "drift": drift, "accuracy": accuracy})
    if args.json:
        print(json.dumps({"rows": rows, **surroundings(1)}))
        return
    print(f"{'share of vectors':<18}{'energy':>8}{'estimated drift':>17}{'accuracy, %':>13}")
    for row in rows:
        print(f"{row['share']:<18.1f}{row['energy']:8.2f}{row['drift']:17.2f}{100 * row['accuracy']:13.1f}")


if __name__ == "__main__":
    main()
