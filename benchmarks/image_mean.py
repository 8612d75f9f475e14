"""Estimates of the mean image embedding from weights and texts, against true means of the drawn world.

Every estimate is scaled to several lengths. The figure is the number of concepts, of five, that an explanation shares
with the explanation made with the true mean, over all heads, vectors and poles of the embedded checkpoint.

    python benchmarks/image_mean.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.images import DatasetSettings
from sith_hf.images.comparison import model_variants
from sith_hf.images.mean import estimated_mean, mean_of_images
from sith_hf.world.embedded import embedded_checkpoint
from sith_hf.world.scenes import render, sample_training


def true_means(editor: SithEditor, seed: int) -> dict[str, Tensor]:
    """Return means of three sets of pictures: training, balanced, and groups of tied objects."""
    (variant,) = model_variants(editor, {"base": None})
    pictures = render(sample_training(2000, seed), seed)
    with torch.inference_mode():
        rows = [
            variant.embed(variant.processor(images=list(pictures[i : i + 250]), return_tensors="pt")["pixel_values"])
            for i in range(0, len(pictures), 250)
        ]
    return {
        "training": torch.cat(rows).double().mean(dim=0),
        "balanced": mean_of_images(editor, DatasetSettings(world="balanced", seed=seed + 1, pictures=2000)).image_mean,
        "groups": mean_of_images(editor, DatasetSettings(world="groups", seed=seed + 2, pictures=200)).image_mean,
    }


@torch.inference_mode()
def guesses(editor: SithEditor, concepts: ConceptDictionary, seed: int) -> dict[str, Tensor]:
    """Return estimates by name; only their directions count."""
    model, tower = editor.model, editor.tower
    vision = model.vision_model
    token = vision.embeddings.class_embedding + vision.embeddings.position_embedding.weight[0]
    side, draw = vision.config.image_size, torch.Generator().manual_seed(seed)

    def seen(pixels: Tensor) -> Tensor:
        return normalize(model.visual_projection(vision(pixel_values=pixels).pooler_output).double(), dim=-1).mean(
            dim=0
        )

    def without_attention(own: bool) -> Tensor:
        x = vision.pre_layrnorm(token)
        for layer in vision.encoder.layers:
            attention, norm = layer.self_attn, layer.layer_norm1
            x = x + attention.out_proj(attention.v_proj(norm(x) if own else norm.bias))
            x = x + layer.mlp(layer.layer_norm2(x))
        return tower.to_joint(x.double())

    noise = torch.randn(512, 3, side, side, generator=draw)
    plain = torch.rand(512, 3, 1, 1, generator=draw) * 2 - 1
    coarse = torch.rand(512, 3, 6, 6, generator=draw) * 2 - 1
    return {
        "class token, before the first layer": estimated_mean(editor).image_mean,
        "class token through MLPs, heads' constants": without_attention(False),
        "class token through MLPs, attending to itself": without_attention(True),
        "post-norm's bias": tower.readout().matrix.double() @ tower.readout().norm.bias.double(),
        "mean position embedding": tower.to_joint(vision.embeddings.position_embedding.weight.mean(dim=0).double()),
        "a grey picture": seen(torch.zeros(1, 3, side, side)),
        "mean of noise": seen(noise),
        "mean of plain colours": seen(plain.expand(-1, -1, side, side)),
        "mean of smooth noise": seen(interpolate(coarse, size=side, mode="bicubic")),
        "mean text": concepts.embeddings_of(range(len(concepts))).double().mean(dim=0),
        "minus the mean text": -concepts.embeddings_of(range(len(concepts))).double().mean(dim=0),
    }


def words(found: Decomposition) -> list[frozenset[str]]:
    """Return the concepts of every pole."""
    rows = found.concept.flatten(0, 3).tolist()
    return [frozenset(found.texts[i] for i in row if i >= 0) for row in rows]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--lengths", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    editor = SithEditor.from_pretrained(embedded_checkpoint())
    concepts = editor.encode(ConceptDictionary.builtin())
    true = true_means(editor, args.seed)
    wanted = {name: words(editor.decompose(concepts, image_mean=mean)) for name, mean in true.items()}

    def shared(mean: Tensor | None) -> dict[str, float]:
        found = words(editor.decompose(concepts, image_mean=mean))
        pairs = {name: zip(found, rows, strict=True) for name, rows in wanted.items()}
        return {name: sum(len(a & b) for a, b in pair) / len(found) for name, pair in pairs.items()}

    made = guesses(editor, concepts, args.seed)
    result: dict[str, Mapping[str, object]] = {
        "length of the true mean": {name: float(mean.norm()) for name, mean in true.items()},
        "no mean": shared(None),
        **{f"true mean of {name}": shared(mean) for name, mean in true.items()},
    }
    for name, guess in made.items():
        direction = normalize(guess.double(), dim=0)
        result[name] = {
            "cosine": {world: float(direction @ normalize(mean, dim=0)) for world, mean in true.items()},
            **{f"length {length}": shared(direction * length) for length in args.lengths},
        }
    if args.json:
        print(json.dumps(result))
        return
    print(f"concepts of five shared with those of the true mean of: {', '.join(true)}; seed {args.seed}")
    for name, row in result.items():
        if "cosine" not in row:
            print(f"  {name:<46}" + " ".join(f"{value:5.2f}" for value in row.values()))
            continue
        print(f"  {name}")
        for what, values in row.items():
            print(f"    {what:<44}" + " ".join(f"{value:5.2f}" for value in values.values()))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
