"""The text tower of the embedded checkpoint: which mean its explanations need, and which edit of it removes danger.

    python benchmarks/text_tower.py     # about two minutes on one core; no picture or seed of a recipe

- *Means.* Remove each vector of the text tower alone, and see how the similarities of captions with pictures change.
  The attribute (objects, colours, ...) that changes most is what the vector writes. Printed for each way to centre
  directions before they are explained: the share of poles whose first concept, and the share of their concepts that
  are of this attribute, with the 95 % interval of the difference to no mean (bootstrap over vectors).
- *Edits.* Recall at 1 of all retrieval settings, the mean over seeds: base, the vision edit of the recipe
  remove-unsafe, and edits of the text tower by several rules and gains, alone and together with it.
- *Classes.* Zero-shot accuracy with the edited text tower, also with one more class that is called danger.
- *Limits.* Random vectors of the text tower removed, beside their impact: mean accuracy over the five attributes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
from common import options, started, surroundings
from numpy.typing import NDArray

from sith_hf import ConceptDictionary, SithEditor, world
from sith_hf.decomposition import Decomposition
from sith_hf.edits import AnySpec, applied, make_spec
from sith_hf.evaluation import Plan, evaluate
from sith_hf.evaluation.retrieval import UNSAFE, VISU
from sith_hf.gains import Gains, impact_of
from sith_hf.images import BASE, DatasetSettings, embed_rows, model_variants, open_dataset, text_model_of
from sith_hf.towers import encode_texts

NAMES = ("danger", "skull")
OBJECT = ("{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}", "this is a photo of {}.")
SHARES = (0.2, 0.4, 0.6)
COLUMNS = {"objects": "object", "colours": "colour", "backgrounds": "background", "sizes": "size", "perils": "peril"}

Floats = NDArray[np.float64]


def prototypes(editor: SithEditor, seed: int, pictures: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return unit directions of values, less the mean of their attribute, and the number of the attribute of each."""
    data = DatasetSettings(world="balanced", seed=seed, pictures=pictures)
    rows = embed_rows(model_variants(editor, {BASE: None}), open_dataset(data), ["image"], [*COLUMNS.values()])
    images, found, owner = rows.images["image"][0].astype(np.float64), [], []
    for number, (name, column) in enumerate(COLUMNS.items()):
        values = np.array(rows.values[column])
        known = [value for value in world.TASKS[name][0] if value in values]
        means = np.stack([images[values == value].mean(axis=0) for value in known])
        means -= means.mean(axis=0)
        found.append(means / np.linalg.norm(means, axis=1, keepdims=True))
        owner += [number] * len(known)
    return np.concatenate(found), np.array(owner)


def written_attributes(editor: SithEditor, made: Decomposition, args: Any) -> NDArray[np.int64]:
    """Return the attribute that each vector writes, ``[L, H, R]``: the one whose similarities its removal changes."""
    directions, owner = prototypes(editor, args.seed, args.pictures)
    rng = np.random.default_rng(args.seed)
    captions = [world.caption(scene, rng) for scene in world.sample_training(args.pictures, args.seed)]

    def similarities() -> Floats:
        texts = encode_texts(editor.model, editor.loaded.tokenizer, captions).double().numpy()
        return np.asarray(texts @ directions.T)

    before, found = similarities(), np.empty(made.singular_values.shape, dtype=np.int64)
    for place in np.ndindex(*found.shape):
        key = (made.layers[place[0]], *place[1:])
        with applied(editor.model, make_spec(editor.tower, made, Gains({key: 0.0}))):
            change = (similarities() - before) ** 2
        found[place] = np.argmax([change[:, owner == number].mean() for number in range(len(COLUMNS))])
    return found


def attributes(text: str) -> int:
    """Return the number of the attribute that a concept names."""
    return next(number for number, value in enumerate(world.mentions(text)) if value >= 0)


def truth(made: Decomposition, written: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return for each vector the share of its poles' first concepts, and of all their concepts, that are true."""
    kind = np.array([attributes(text) for text in made.texts])
    concept = made.concept.numpy()
    right = (kind[concept] == written[..., None, None]) & (concept >= 0)
    share = right.sum(axis=-1) / (concept >= 0).sum(axis=-1).clip(min=1)
    return right[..., 0].mean(axis=-1), share.mean(axis=-1)


def means(editor: SithEditor, concepts: ConceptDictionary, args: Any) -> list[dict[str, Any]]:
    """Return the truth of explanations by layer for each mean."""
    rng = np.random.default_rng(args.seed + 1)
    captions = [world.caption(scene, rng) for scene in world.sample_training(1000, args.seed + 1)]
    texts = encode_texts(editor.model, editor.loaded.tokenizer, captions)
    kinds = {"none": None, "dictionary": concepts.mean, "captions": texts.mean(dim=0)}
    made = {name: editor.decompose(concepts, image_mean=mean) for name, mean in kinds.items()}
    written = written_attributes(editor, made["none"], args)
    without, draws, rows = truth(made["none"], written), np.random.default_rng(0), []
    for name, found in made.items():
        for layer in range(len(found.layers)):
            row: dict[str, Any] = {"mean": name, "layer": layer}
            for key, own, none in zip(("first", "all"), truth(found, written), without, strict=True):
                difference = (own[layer] - none[layer]).ravel()
                drawn = [draws.choice(difference, len(difference)).mean() for _ in range(2000)]
                row[key], row[f"{key}_interval"] = float(own[layer].mean()), np.quantile(drawn, [0.025, 0.975]).tolist()
            rows.append(row)
    return rows


def edits(editor: SithEditor, text: SithEditor) -> dict[str, AnySpec]:
    """Return the edits to compare, by name."""
    vision: AnySpec = editor.edit().set_gain(*NAMES, gain=0.0, threshold=0.5, layers=[-2]).spec
    vision = vision.compose(editor.edit().set_gain(*NAMES, gain=-1.0, threshold=0.5, layers=[-1]).spec)
    topic = {
        f"topic, gain {gain:g}": text.edit().set_gain(*NAMES, gain=gain, threshold=0.5) for gain in (0.5, 0.0, -1.0)
    }
    words = {"words": text.edit().set_gain(*NAMES, gain=0.0)}
    words["words, last layer"] = text.edit().set_gain(*NAMES, gain=0.0, layers=[-1])
    found: dict[str, AnySpec] = {"vision": vision}
    for name, edit in (words | topic).items():
        found |= {f"text: {name}": edit.spec, f"both: {name}": vision.compose(edit.spec)}
    return found


def recalls(editor: SithEditor, specs: Mapping[str, AnySpec], args: Any) -> dict[str, dict[str, float]]:
    """Return recall at 1 by setting and variant, the mean over seeds."""
    columns = {name: name for name in ("caption", "unsafe_image", "unsafe_caption")}
    tasks = [
        {"kind": "retrieval", "name": f"seed {seed}", "ks": [1],
         "data": {"world": "unsafe", "seed": seed, "pictures": args.pictures, "columns": columns}}
        for seed in range(args.seed, args.seed + args.repeats)
    ]  # fmt: skip
    plan = Plan.from_data({"tasks": tasks, "resamples": 100}, "the benchmark")
    variants = model_variants(editor, {BASE: None, **specs})
    found = evaluate(variants, plan.tasks, text=text_model_of(editor), **plan.options)
    settings = (*VISU, *UNSAFE)
    return {
        setting: {
            name: float(np.mean([found.value(task.name, "recall at 1", name, setting) for task in found.tasks]))
            for name in found.variants
        }
        for setting in settings
    }


def classes(editor: SithEditor, specs: Mapping[str, AnySpec], args: Any) -> dict[str, dict[str, float]]:
    """Return zero-shot accuracy by task and variant."""
    tied = {name for pair in world.TIED_PAIRS for name, _ in pair}
    objects, places = [name for name in world.OBJECTS if name not in tied], list(world.TASKS["backgrounds"][0])

    def task(name: str, label: str, names: list[str], templates: tuple[str, ...], safe: bool = False) -> dict[str, Any]:
        data = {"world": "balanced", "seed": args.seed, "pictures": args.pictures, "columns": {"label": label}}
        data |= {"where": {"peril": "safety"}} if safe else {}
        return {"kind": "zero-shot", "name": name, "data": data, "classes": names, "templates": list(templates)}

    plain = ("{}", "the {}", "a photo of the {}")
    tasks = [
        task("objects", "object", objects, OBJECT),
        task("objects, and danger as a class", "object", [*objects, "danger"], OBJECT, safe=True),
        task("backgrounds", "background", places, plain),
        task("backgrounds, and danger as a class", "background", [*places, "danger"], plain, safe=True),
        task("danger or safety", "peril", ["danger", "safety"], ("{}", "a photo of {}", "a picture with {}")),
    ]
    plan = Plan.from_data({"tasks": tasks, "resamples": 100}, "the benchmark")
    found = evaluate(
        model_variants(editor, {BASE: None, **specs}), plan.tasks, text=text_model_of(editor), **plan.options
    )
    return {each.name: dict(each.metric("accuracy").values) for each in found.tasks}


def limits(editor: SithEditor, text: SithEditor, args: Any) -> list[dict[str, float]]:
    """Return energy, estimated drift and mean accuracy after random edits of growing size, the mean over draws."""
    made, draws = text.decomposition, 10
    data = {"world": "balanced", "seed": args.seed, "pictures": args.pictures}
    tasks = [
        {"kind": "zero-shot", "name": name, "data": {**data, "columns": {"label": COLUMNS[name]}},
         "classes": list(names), "templates": list(templates)}
        for name, (names, templates) in world.TASKS.items()
    ]  # fmt: skip
    plan = Plan.from_data({"tasks": tasks, "resamples": 100}, "the benchmark")
    keys = [(n, h, v) for n in made.layers for h in range(made.num_heads) for v in range(made.rank)]
    chosen = {
        (share, draw): dict.fromkeys(random.Random(args.seed + draw).sample(keys, round(share * len(keys))), 0.0)
        for share in SHARES
        for draw in range(draws)
    }
    specs = {str(name): make_spec(text.tower, made, Gains(gain)) for name, gain in chosen.items()}
    variants = model_variants(editor, {BASE: None, **specs})
    found = evaluate(variants, plan.tasks, text=text_model_of(editor), **plan.options)
    rows = []
    for share in SHARES:
        impacts = [impact_of(text.tower, made, chosen[share, draw]) for draw in range(draws)]
        names = [str((share, draw)) for draw in range(draws)]
        right = [task.metric("accuracy").values[name] for task in found.tasks for name in names]
        energy, drift = (float(np.mean([getattr(item, key) for item in impacts])) for key in ("energy", "drift"))
        rows.append({"share": share, "energy": energy, "drift": drift, "accuracy": float(np.mean(right))})
    return rows


def main() -> None:
    parser = options("explanations and edits of the text tower", repeats=8)
    parser.set_defaults(seed=7)
    parser.add_argument("--pictures", type=int, default=300)
    args = started(parser)
    editor = SithEditor.from_pretrained(world.embedded_checkpoint())
    text = SithEditor.from_pretrained(world.embedded_checkpoint(), tower="text")
    concepts = editor.encode(ConceptDictionary.from_texts(world.concepts()))
    editor.decompose(concepts)
    rows = means(text, concepts, args)
    text.decompose(concepts)
    specs = edits(editor, text)
    found = recalls(editor, specs, args)
    named = classes(
        editor, {name: specs[name] for name in ("vision", "text: words", "both: words", "text: topic, gain -1")}, args
    )
    random_edits = limits(editor, text, args)
    if args.json:
        data = {"means": rows, "recalls": found, "classes": named, "limits": random_edits}
        print(json.dumps({**data, **surroundings(args.repeats)}))
        return
    for row in rows:
        low, high = row["all_interval"]
        print(
            f"mean {row['mean']:<12} layer {row['layer']}: first concept true {row['first']:.2f}, concepts true "
            f"{row['all']:.2f} (difference to none {low:+.3f} to {high:+.3f})"
        )
    for title, table in (("recall at 1, %", found), ("accuracy, %", named)):
        print(f"\n{title}")
        for name, values in table.items():
            print(f"  {name}")
            print("".join(f"    {variant:<28}{100 * value:6.1f}\n" for variant, value in values.items()), end="")

    print("\nrandom vectors removed")
    for row in random_edits:
        print(
            f"  {row['share']:.1f} of them: energy {row['energy']:.2f}, drift {row['drift']:.2f}, "
            f"accuracy {100 * row['accuracy']:.1f} %"
        )


if __name__ == "__main__":
    main()
