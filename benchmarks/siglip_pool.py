"""How should a direction of a SigLIP tower reach the joint space: with the pool's MLP evaluated, or left out?

    python benchmarks/siglip_pool.py FOLDER [FOLDER ...] [--layers -1 3 --pictures 100 --threads 1 --json]

A FOLDER that does not exist is made first, as by ``siglip_world.py`` with the folder's place in the list as its seed
(15 to 25 minutes); measuring takes 3 minutes of CPU.

The pooler is F(r) = r + MLP(LN r), where r is the output of the attention of the probe to LN_post(x), with its offset.
Pool heads write into r, encoder heads into the residual stream x. Candidates map the write direction of each vector,
in both signs, to the joint space, and COMP (K = 5, lambda = 0.3) explains it with the world's words.

Truth: the vector is removed (gain 0) on held-out pictures. A value of the world (a colour, an object) is written if the
logit of its words rises with the vector's coefficient at least half as much as that of the value that rises most.

- top: share of poles whose first word names a written value; words: the same for all five words.
- r: correlation over all values of the candidate's similarities and the measured rise.
- random: the same three for random directions in place of the vectors; random words stand in the headings.
- fidelity by each inverse, that of random directions, the share of poles above 95 % of those, and the first of these.

In brackets: difference to the first candidate, with its 95 % bootstrap interval over vectors. Seeds are below 1000.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import options, started, surroundings
from siglip_tower import POOL, Pictures, Tower
from siglip_world import EVALUATION, make, settings_of, tokens
from torch import Tensor
from torch.nn.functional import layer_norm, normalize
from transformers import AutoTokenizer, SiglipModel
from truth_world import VALUES, near_largest, value_of

from sith_hf import world
from sith_hf.pursuit import Pursuit

# Random directions for the test of explanations.
DRAWS = 2000
Readout = Callable[[Tensor], Tensor]


def jacobian(tower: Tower, points: Tensor) -> Tensor:
    """Return the mean Jacobian of the normalised embedding with respect to r, ``[D, D]``."""
    one = torch.func.jacrev(lambda r: normalize(tower.finish(r), dim=-1))
    total = torch.zeros(tower.size, tower.size, dtype=points.dtype)
    for point in points:
        total += one(point)
    return total / len(points)


def chains(tower: Tower) -> dict[str, Readout]:
    """Return candidates from the residual stream to r."""
    gain, size = tower.vision.post_layernorm.weight, tower.size

    def linear(x: Tensor) -> Tensor:
        return (layer_norm(x, (size,)) * gain) @ tower.chain.T

    def offset(x: Tensor) -> Tensor:
        return tower.post(x) @ tower.chain.T

    def full(x: Tensor) -> Tensor:
        return linear(x) + tower.constant

    return {"no offsets": linear, "with LN's offset": offset, "all offsets": full}


@dataclass
class Words:
    """The dictionary: centred ``atoms`` ``[M, D]``, the value that each word names, and ``values`` ``[V, D]``."""

    atoms: Tensor
    names: Tensor
    values: Tensor
    centre: Tensor


def dictionary(model: SiglipModel, tokenizer: Any) -> Words:
    """Embed the world's words."""
    texts = world.concepts()
    raw = normalize(model.get_text_features(input_ids=tokens(tokenizer, texts)).pooler_output.double(), dim=-1)
    found = value_of(texts)
    values = torch.stack([normalize(raw[found == number].mean(0), dim=-1) for number in range(len(VALUES))])
    centre = raw.mean(0)
    return Words(normalize(raw - centre, dim=-1), found, values, centre)


def slopes(tower: Tower, states: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Return Jacobians of what follows r, ``[D, D]``; ``states`` and ``noise`` are r of pictures and of noise."""
    generator = torch.Generator().manual_seed(0)
    random = normalize(torch.randn(64, tower.size, generator=generator, dtype=states.dtype), dim=1)
    return {
        "mean J at random r": jacobian(tower, weight_length(tower) * random),
        "mean J over noise": jacobian(tower, noise[:32]),
        "mean J over pictures": jacobian(tower, states[:32]),
    }


def weight_length(tower: Tower) -> float:
    """Return the mean length of W_O W_V LN_post(x) for random x: what r is if all tokens are one random direction."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, tower.size, generator=generator, dtype=torch.float64)
    return float(chains(tower)["no offsets"](x).norm(dim=1).mean())


def candidates(tower: Tower, layer: int, pictures: Pictures, noise: Pictures) -> dict[str, Readout]:
    """Return the candidates for a layer, the simplest first."""
    found: dict[str, Readout] = {}
    ends = slopes(tower, pictures.r, noise.r)
    if layer == POOL:
        lengths = {
            "1": 1.0,
            "of weights": weight_length(tower),
            "of noise": float(noise.r.norm(dim=1).mean()),
            "of pictures": float(pictures.r.norm(dim=1).mean()),
        }
        found["r"] = lambda w: w
        for name, length in lengths.items():
            found[f"F(r), length {name}"] = lambda w, length=length: tower.finish(length * w)
            found[f"F(r) - F(-r), length {name}"] = lambda w, length=length: odd(tower, length * w)
        found |= {name: (lambda w, slope=slope: w @ slope.T) for name, slope in ends.items()}
        return found
    for name, chain in chains(tower).items():
        found[f"{name}; r"] = chain
        found[f"{name}; F(r)"] = lambda x, chain=chain: tower.finish(chain(x))
    linear = chains(tower)["no offsets"]
    found["no offsets; F(r) - F(-r)"] = lambda x: odd(tower, linear(x))
    found |= {f"no offsets; {name}": (lambda x, slope=slope: linear(x) @ slope.T) for name, slope in ends.items()}
    return found


def odd(tower: Tower, r: Tensor) -> Tensor:
    """Return the odd part of F: opposite poles get opposite points."""
    return tower.finish(r) - tower.finish(-r)


def inverses(tower: Tower, layer: int) -> dict[str, Tensor]:
    """Return maps from joint points to directions, ``[D, D]``."""
    if layer == POOL:
        return {"identity": torch.eye(tower.size, dtype=torch.float64)}
    return {
        "pinv": torch.linalg.pinv(tower.chain),
        "pinv above 30 %": torch.linalg.pinv(tower.chain, rtol=0.3),
        "transpose": tower.chain.T,
    }


@dataclass
class Explained:
    """Directions ``[N, D]``, their joint points, and the points that COMP's words rebuild."""

    directions: Tensor
    points: Tensor
    rebuilt: Tensor
    index: Tensor

    def fidelity(self, inverse: Tensor | None, mean: Tensor | None) -> Tensor:
        """Return the cosine to the direction after ``inverse``; to the joint point when None."""
        if inverse is None:
            return torch.cosine_similarity(self.rebuilt, self.points, dim=-1)
        back = normalize(self.rebuilt, dim=-1)
        back = back if mean is None else normalize(back + mean, dim=-1)
        return torch.cosine_similarity(back @ inverse.T, self.directions, dim=-1)


def explained(directions: Tensor, readout: Readout, mean: Tensor | None, words: Words) -> Explained:
    """Map directions to the joint space and explain them."""
    points = normalize(readout(directions), dim=-1)
    points = points if mean is None else normalize(points - mean, dim=-1)
    code = Pursuit()(points, words.atoms)
    return Explained(directions, points, code.reconstruct(words.atoms), code.index)


def scores(found: Explained, changes: Tensor, words: Words) -> dict[str, Tensor]:
    """Compare explanations with the measured changes ``[N, values]``: ``MEASURES`` for each direction."""
    right = near_largest(changes).gather(1, words.names[found.index]).double()
    alike = found.points @ normalize(words.values - words.centre, dim=-1).T
    alike, truth = alike - alike.mean(1, keepdim=True), changes - changes.mean(1, keepdim=True)
    r = (normalize(alike, dim=1) * normalize(truth, dim=1)).sum(1)
    return {"top": right[:, 0], "words": right.mean(1), "r": r}


def interval(values: Tensor, draws: int = 1000) -> list[float]:
    """Return the mean and its 95 % bootstrap interval; poles of one vector are drawn together."""
    pairs = values.reshape(2, -1).mean(0)
    generator = torch.Generator().manual_seed(0)
    means = pairs[torch.randint(len(pairs), (draws, len(pairs)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return [float(pairs.mean()), low, high]


def judged(fidelity: Tensor, chance: Tensor, right: Tensor) -> dict[str, float]:
    """Return a fidelity's mean, that of random directions, and what its test at p <= .05 keeps."""
    kept = fidelity > chance.quantile(0.95)
    return {
        "mean": float(fidelity.mean()),
        "random_directions": float(chance.mean()),
        "kept": float(kept.double().mean()),
        "top_of_kept": float(right[kept].mean()) if kept.any() else float("nan"),
    }


def measure_layer(
    tower: Tower, layer: int, pictures: list[Pictures], noise: Pictures, words: Words, seed: int
) -> dict[str, Any]:
    """Return the scores of every candidate for a layer."""
    vectors = tower.vectors(layer)
    each = [found.changes(layer, vectors, words.values) for found in pictures]
    changes = torch.stack([normalize(change, dim=1) for change in each]).mean(0)
    both = torch.cat([changes, -changes])
    write = torch.cat([vectors.write, -vectors.write])
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(DRAWS, tower.size, generator=generator, dtype=write.dtype)
    drawn = normalize(drawn if layer == POOL else drawn - drawn.mean(1, keepdim=True), dim=1)
    inverse: dict[str, Tensor | None] = {**inverses(tower, layer), "joint space": None}
    rows: dict[str, Any] = {}
    first: dict[str, Tensor] = {}
    readouts = candidates(tower, layer, pictures[0], noise)
    simplest = next(iter(readouts))
    means = [(name, None) for name in readouts] + [(simplest, pictures[0].embedding.mean(0))]
    for name, mean in means:
        real, random = (explained(some, readouts[name], mean, words) for some in (write, drawn))
        found = scores(real, both, words)
        first = first or found
        others = scores(explained(drawn[: len(write)], readouts[name], mean, words), both, words)
        rows[name + ("" if mean is None else "; true mean")] = {
            **{key: interval(value) for key, value in found.items()},
            "difference": {key: interval(value - first[key]) for key, value in found.items()},
            "random_directions": {key: float(value.mean()) for key, value in others.items()},
            "fidelity": {
                key: judged(real.fidelity(back, mean), random.fidelity(back, mean), found["top"])
                for key, back in inverse.items()
            },
            "top_by_seed": [float(scores(real, torch.cat([change, -change]), words)["top"].mean()) for change in each],
        }
    return {
        "poles": len(write),
        "written_values": float(near_largest(both).double().sum(1).mean()),
        "random_words": float(near_largest(both)[:, words.names].double().mean()),
        "agreement": float(torch.cosine_similarity(each[0], each[-1], dim=1).mean()),
        "candidates": rows,
    }


@torch.no_grad()
def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one trained model."""
    model = SiglipModel.from_pretrained(folder).eval()
    model.set_attn_implementation("eager")
    words = dictionary(model, AutoTokenizer.from_pretrained(folder))
    tower = Tower(model)
    tower.model.set_attn_implementation("eager")
    pictures = [
        Pictures(tower, world.render(world.sample_balanced(args.pictures, args.seed + 10 * i), args.seed + 10 * i + 1))
        for i in range(args.picture_seeds)
    ]
    side = world.IMAGE_SIZE
    generator = torch.Generator().manual_seed(args.seed)
    drawn = torch.randint(0, 256, (64, side, side, 3), dtype=torch.uint8, generator=generator)
    noise = Pictures(tower, drawn.numpy())
    r = pictures[0].r
    layers = [POOL, *reversed(range(len(tower.layers)))] if args.layers is None else args.layers
    return {
        "model": folder.name,
        "accuracy": json.loads((folder / EVALUATION).read_text()),
        "lengths": {
            "r of pictures": float(r.norm(dim=1).mean()),
            "r of noise": float(noise.r.norm(dim=1).mean()),
            "mean r": float(r.mean(0).norm()),
            "r of weights": weight_length(tower),
            "constant": float(tower.constant.norm()),
            "cosine of constant and mean r": float(torch.cosine_similarity(tower.constant, r.mean(0), dim=0)),
            "MLP of pictures": float((tower.finish(r) - r).norm(dim=1).mean()),
            "cosine of r and F(r)": float(torch.cosine_similarity(tower.finish(r), r, dim=1).mean()),
            "condition of W_O W_V": float(torch.linalg.cond(tower.chain)),
        },
        "layers": {
            "pool" if layer == POOL else str(layer): measure_layer(tower, layer, pictures, noise, words, args.seed)
            for layer in layers
        },
    }


def main() -> None:
    parser = options("readouts of SigLIP's directions against what its vectors write", repeats=1)
    parser.add_argument("folders", type=Path, nargs="+", help="of siglip_world.py; trained where there is none")
    parser.add_argument("--pictures", type=int, default=100, help="pictures of each seed")
    parser.add_argument("--picture-seeds", type=int, default=2)
    parser.add_argument("--layers", type=int, nargs="+", help="-1 for the pool; all when left out")
    args = started(parser)
    for seed, folder in enumerate(args.folders):
        if not folder.exists():
            make(folder, settings_of(seed))
    results = [measure(folder, args) for folder in args.folders]
    if args.json:
        print(json.dumps({"models": results, **surroundings(1)}))
        return
    for result in results:
        show(result)


def show(result: dict[str, Any]) -> None:
    """Print the figures of one model; fidelities of the first candidate only."""
    print(f"{result['model']}: accuracy", {key: round(value, 3) for key, value in result["accuracy"].items()})
    print(" ", {key: round(value, 2) for key, value in result["lengths"].items()})
    for layer, found in result["layers"].items():
        print(
            f"{layer}: {found['poles']} poles, {found['written_values']:.1f} written values, "
            f"random words {found['random_words']:.2f}, agreement between seeds of pictures {found['agreement']:.2f}"
        )
        for name, row in found["candidates"].items():
            cells = [
                f"{key} {row[key][0]:.2f} ({change:+.2f} [{low:+.2f}, {high:+.2f}])"
                for key, (change, low, high) in row["difference"].items()
            ]
            chance = ", ".join(f"{value:.2f}" for value in row["random_directions"].values())
            print(f"  {name:<36}{'  '.join(cells)}  random {chance}")
        for name, item in next(iter(found["candidates"].values()))["fidelity"].items():
            print(
                f"  fidelity, {name:<16} {item['mean']:.2f}, random {item['random_directions']:.2f}; "
                f"kept {item['kept']:.2f}, top of kept {item['top_of_kept']:.2f}"
            )


if __name__ == "__main__":
    main()
