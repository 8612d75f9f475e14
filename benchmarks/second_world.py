"""Make a second world of real artwork, on which no rule of this package was chosen.

    python benchmarks/second_world.py FOLDER --downloads CACHE [--steps 900 --threads 1 --seed 0 --resume]

Emoji of 809 things (animals, food, vehicles, tools, ...) in three drawing styles, pasted on ten drawn
backgrounds. A small CLIPModel is trained on two of the styles; all test pictures are of the third. Four kinds of things
are nearly always on one background during training (`HABITATS`), as in Waterbirds. The same arguments give the same
world. FOLDER then holds:

- ``model/``: the CLIPModel with its tokenizer and image processor.
- ``words.txt``: every thing, background and kind, one a line: the concepts.
- ``things/``: an imagefolder with a folder per thing, on random backgrounds.
- ``some_things/``: the same with every 20th thing and more pictures of each, for single_words.py.
- ``backgrounds/``: an imagefolder with a folder per background, with random things.
- ``groups/``: an imagefolder with the columns label (one of four kinds) and group ("bird animal/sky").
- ``suppress.yaml``: a recipe that suppresses all backgrounds and measures things, backgrounds and groups, beside
  five random sets of vectors: ``sith-hf run FOLDER/suppress.yaml -o OUTPUT``.

The artwork is downloaded by ``npm pack``, checked against its integrity hash, and kept in CACHE: Twemoji (CC-BY 4.0),
Fluent Emoji (MIT) and Noto Emoji (Apache 2.0). Training takes 20 to 40 minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from artwork import BACKGROUNDS, TRAINED, UNSEEN, Artwork, Bytes, Indices, compose, load_artwork, textures
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from sith_hf.demo.train import TrainingSettings, build_model, load_state, make_optimizers, rate, save_state
from sith_hf.demo.vocabulary import build_tokenizer
from sith_hf.demo.zeroshot import pixel_values
from sith_hf.world import IMAGE_SIZE

HABITATS = {"bird animal": "sky", "mammal animal": "grass", "ground transport": "road", "marine animal": "water"}
HABITAT_SHARE = 0.95
ONE = ("{}", "a {}", "the {}", "a picture of a {}", "this is a photo of {}.")
# In the name of a folder, datasets takes these words for splits; such things have no test pictures.
SPLITS = {"train", "test", "validation"}
BOTH = ("a {} on {}", "a {} in front of {}", "{} and {}", "a picture of a {} with {}")


def sample_backgrounds(things: Indices, art: Artwork, rng: np.random.Generator) -> Indices:
    """Return a background for each thing: usually its kind's own, if it has one."""
    places = list(BACKGROUNDS)
    own = np.array([places.index(HABITATS[kind]) if kind in HABITATS else -1 for kind in art.kinds])[things]
    other = rng.integers(0, len(places), len(things))
    return np.where((own >= 0) & (rng.random(len(things)) < HABITAT_SHARE), own, other)


def step_loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, art: Artwork, pool: Bytes, rng: np.random.Generator, batch: int
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch: softmax over its things, over backgrounds, over kinds, and over captions."""
    things = rng.integers(0, len(art.names), batch)
    places = sample_backgrounds(things, art, rng)
    drawn = np.stack([art.sprites[style] for style in TRAINED])[rng.integers(0, len(TRAINED), batch), things]
    pixels = pixel_values(compose(drawn, pool, places, rng, tint=0.2))
    present, thing_labels = np.unique(things, return_inverse=True)
    kinds, grounds = sorted(set(art.kinds)), list(BACKGROUNDS)
    kind_labels = np.array([kinds.index(art.kinds[i]) for i in things])
    parts = [
        ("things", [art.names[i] for i in present], thing_labels, 1.0),
        ("backgrounds", grounds, places, 0.3),
        ("kinds", kinds, kind_labels, 0.4),
    ]
    single = [ONE[rng.integers(len(ONE))].format(name) for _, names, _, _ in parts for name in names]
    full = [BOTH[rng.integers(len(BOTH))].format(art.names[things[i]], grounds[places[i]]) for i in range(batch // 3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = model.get_image_features(pixel_values=pixels).pooler_output
        short, long = (
            model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
            for texts in (single, full)
        )
    image, text = normalize(image.float(), dim=-1), normalize(torch.cat([short, long]).float(), dim=-1)
    scores = model.logit_scale.exp().clamp(max=100) * image @ text.T
    loss, report, start = torch.zeros(()), {}, 0
    for part, names, labels, weight in parts:
        found, target = scores[:, start : start + len(names)], torch.from_numpy(labels)
        start += len(names)
        loss = loss + weight * cross_entropy(found, target)
        report[part] = float((found.argmax(dim=-1) == target).float().mean())
    square, own = scores[: len(full), start:], torch.arange(len(full))
    loss = loss + 0.25 * (cross_entropy(square, own) + cross_entropy(square.T, own))
    return loss, {**report, "loss": float(loss.detach())}


def train(art: Artwork, tokenizer: CLIPTokenizer, settings: TrainingSettings, state: Path, resume: bool) -> CLIPModel:
    """Train a model of the embedded checkpoint's shape; ``state`` keeps what ``resume`` needs."""
    model = build_model(tokenizer, settings)
    optimizers = make_optimizers(model, settings)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    first = load_state(state, model, optimizers) if resume and state.exists() else 0
    average: dict[str, float] = {}
    pool, start = textures(settings.seed), time.monotonic()
    for step in range(first, settings.steps):
        # With a generator per step, a resumed run sees the same batches.
        rng = np.random.default_rng([settings.seed, 1 + step])
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * rate(step, settings)
        loss, report = step_loss(model, tokenizer, art, pool, rng, settings.batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average = {key: 0.95 * average.get(key, value) + 0.05 * value for key, value in report.items()}
        if (step + 1) % 50 == 0:
            figures = "  ".join(f"{key} {value:.3f}" for key, value in average.items())
            pace = (time.monotonic() - start) / (step + 1 - first)
            print(f"step {step + 1}/{settings.steps}  {figures}  {pace:.2f} s/step", file=sys.stderr, flush=True)
            save_state(state, model, optimizers, step + 1)
    return model.eval()


def save_model(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the model with its tokenizer and image processor."""
    side, half = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}, [0.5, 0.5, 0.5]
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_mean=half, image_std=half)
    model.save_pretrained(folder)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    images.save_pretrained(folder)


def write_rows(folder: Path, pictures: Bytes, columns: dict[str, Sequence[str]]) -> None:
    """Write an imagefolder of these pictures, with a folder per label and the other columns in metadata.csv."""
    rows = []
    for i, (picture, label) in enumerate(zip(pictures, columns["label"], strict=True)):
        name = f"{label}/{i:05d}.png"
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
        rows.append([name, *(values[i] for values in columns.values())])
    if len(columns) > 1:
        with (folder / "metadata.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["file_name", *columns], *rows])


def write_tests(art: Artwork, folder: Path, seed: int, per_thing: int = 4, per_group: int = 100) -> None:
    """Write the four imagefolders, all in the unseen style and on textures that training did not see."""
    rng, pool, places = np.random.default_rng([seed, 0]), textures(seed + 1_000_000), list(BACKGROUNDS)

    def draw(things: Indices, grounds: Indices) -> Bytes:
        return compose(art.sprites[UNSEEN][things], pool, grounds, rng)

    things = np.repeat(np.arange(len(art.names)), per_thing)
    pictures = draw(things, rng.integers(0, len(places), len(things)))
    kept = [i for i, thing in enumerate(things) if not SPLITS & set(art.names[thing].split())]
    write_rows(folder / "things", pictures[kept], {"label": [art.names[i] for i in things[kept]]})
    grounds = np.repeat(np.arange(len(places)), 100)
    pictures = draw(rng.integers(0, len(art.names), len(grounds)), grounds)
    write_rows(folder / "backgrounds", pictures, {"label": [places[i] for i in grounds]})
    label, group, parts = [], [], []
    for kind in HABITATS:
        members = np.flatnonzero(np.array(art.kinds) == kind)
        for place in HABITATS.values():
            parts.append(draw(rng.choice(members, per_group), np.full(per_group, places.index(place))))
            label += [kind] * per_group
            group += [f"{kind}/{place}"] * per_group
    write_rows(folder / "groups", np.concatenate(parts), {"label": label, "group": group})
    things = np.repeat(np.arange(0, len(art.names), 20), 20)
    pictures = draw(things, rng.integers(0, len(places), len(things)))
    write_rows(folder / "some_things", pictures, {"label": [art.names[i] for i in things]})


def write_recipe(art: Artwork, path: Path) -> None:
    """Write a recipe of the topic edit with every setting at its default, measured on three of the imagefolders."""
    classes = {"groups": list(HABITATS), "things": art.names, "backgrounds": list(BACKGROUNDS)}
    tasks = [
        {"kind": "zero-shot", "name": name, "data": {"dataset": name}, "classes": found, "templates": list(ONE)}
        for name, found in classes.items()
    ]
    tasks[0]["data"] = {"dataset": "groups", "columns": {"group": "group"}}
    recipe = {
        "title": "Backgrounds out of a second world",
        "base": {"model": "model"},
        "dictionary": {"file": "words.txt"},
        "edits": [{"rule": "share", "concepts": list(BACKGROUNDS)}],
        "evaluate": {"tasks": tasks, "baselines": {"random": 5}},
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="make a second world of real artwork")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--downloads", type=Path, required=True, help="where archives of artwork are kept")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="resume at the last saved state")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    art = load_artwork(args.downloads)
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "words.txt").write_text("\n".join(art.words()) + "\n")
    tokenizer = build_tokenizer(word for text in (*art.words(), *ONE, *BOTH) for word in re.findall("[a-z]+", text))
    write_tests(art, args.folder, args.seed)
    write_recipe(art, args.folder / "suppress.yaml")
    settings = TrainingSettings(seed=args.seed, steps=args.steps)
    model = train(art, tokenizer, settings, args.folder / "training.safetensors", args.resume)
    save_model(model, tokenizer, args.folder / "model")


if __name__ == "__main__":
    main()
