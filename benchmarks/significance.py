"""Do the p-values of explanations hang on the seed of their random directions, and are they uniform under the null?

    python benchmarks/significance.py [--seeds 8] [--model FOLDER --concepts words.txt]

- significant: the poles with an explanation better than chance at a false discovery rate of 0.05, for random directions
  of several seeds (``decompose`` always uses seed 0).
- pairs: the number of pairs of seeds whose counts differ by more than a tenth.
- kept: the share of the poles, and of the energy, that ``decompose`` finds beyond chance, by layer.
- uniform: other random directions take the place of vectors, once for each seed. The share of them with a p-
  value of at most p must be near p; "significant" counts those that the false discovery rate lets pass, which should be
  none in 95 of 100 samples.
"""

from __future__ import annotations

import json
import statistics
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from common import options, started, surroundings
from torch import Tensor

from sith_hf import ConceptDictionary, SithEditor, world
from sith_hf.decomposition import (
    DRAWS,
    DecomposeSettings,
    adjusted,
    measure_explanations,
    null_directions,
    p_values,
)

LEVEL = 0.05
SHARES = (0.5, 0.1, 0.05, 0.01, 0.001)


class World:
    """A decomposed tower, and the fidelities of random directions."""

    def __init__(self, editor: SithEditor, concepts: ConceptDictionary, draws: int) -> None:
        self.tower, self.atoms, self.draws = editor.tower, editor.encode(concepts).atoms, draws
        self.made, self.settings = editor.decompose(concepts), DecomposeSettings()

    def chance(self, seed: int) -> Tensor:
        """Return the fidelities of random directions, ``[N]``."""
        generator = torch.Generator().manual_seed(seed)
        drawn = null_directions("residual", self.made.write, self.draws, generator=generator)
        return measure_explanations(self.tower, self.atoms, drawn, self.settings.pursuit).fidelity

    def significant(self, seed: int) -> int:
        """Return the number of significant poles."""
        return int((adjusted(p_values(self.made.fidelity, self.chance(seed))) <= LEVEL).sum())

    def kept(self) -> dict[str, list[float]]:
        """Return the shares of poles and of energy beyond chance, by layer."""
        beyond = self.made.beyond_chance()
        assert beyond is not None
        energy = (self.made.singular_values**2).unsqueeze(-1).expand(beyond.shape)
        return {
            "poles": beyond.double().mean(dim=(1, 2, 3)).tolist(),
            "energy": ((energy * beyond).sum(dim=(1, 2, 3)) / energy.sum(dim=(1, 2, 3))).tolist(),
        }

    def uniform(self, seed: int) -> dict[str, Any]:
        """Return the shares of p-values under the null, with other random directions as vectors."""
        p = p_values(self.chance(seed + 10_000), self.chance(seed))
        shares = {str(share): float((p <= share).double().mean()) for share in SHARES}
        return {"shares": shares, "significant": int((adjusted(p) <= LEVEL).sum())}


def measured(found: World, seeds: int) -> dict[str, Any]:
    """Return the counts and shares of all seeds."""
    counts = [found.significant(seed) for seed in range(seeds)]
    uniform = [found.uniform(seed) for seed in range(seeds)]
    middle = statistics.median(counts)
    return {
        "poles": found.made.fidelity.numel(),
        "significant": counts,
        "pairs": statistics.mean(max(pair) > 1.1 * min(pair) for pair in combinations(counts, 2))
        if seeds > 1
        else None,
        "kept": found.kept(),
        "largest_difference": (max(counts) - min(counts)) / middle if middle else None,
        "uniform": {share: statistics.mean(item["shares"][share] for item in uniform) for share in map(str, SHARES)},
        "significant_under_the_null": [item["significant"] for item in uniform],
    }


def main() -> None:
    parser = options("stability and uniformity of the p-values of explanations", repeats=1)
    parser.add_argument("--model", type=Path, help="a CLIP folder; the embedded checkpoint when left out")
    parser.add_argument("--concepts", type=Path, help="with --model: the dictionary, one concept a line")
    parser.add_argument("--seeds", type=int, default=8, help="of the random directions")
    parser.add_argument("--draws", type=int, default=DRAWS, help="random directions of each seed")
    args = started(parser)
    if (args.model is None) != (args.concepts is None):
        parser.error("--model and --concepts go together")
    editor = SithEditor.from_pretrained(world.embedded_checkpoint() if args.model is None else args.model)
    concepts = (
        ConceptDictionary.from_texts(world.concepts())
        if args.model is None
        else ConceptDictionary.from_file(args.concepts)
    )
    result = measured(World(editor, concepts, args.draws), args.seeds)
    if args.json:
        print(json.dumps({**result, **surroundings(1)}))
        return
    counts, difference = result["significant"], result["largest_difference"]
    shown = "not defined" if difference is None else f"{difference:.1%} of the median"
    print(f"significant poles of {result['poles']}, by seed: {counts}; largest difference {shown}")
    print(f"pairs of seeds that differ by more than a tenth: {result['pairs']}")
    print("beyond chance, by layer:", {name: [round(x, 2) for x in shares] for name, shares in result["kept"].items()})
    print("share of p-values at most p under the null:", {p: round(s, 4) for p, s in result["uniform"].items()})
    print(f"significant under the null, by seed: {result['significant_under_the_null']}")


if __name__ == "__main__":
    main()
