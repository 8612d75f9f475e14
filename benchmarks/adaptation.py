"""Do the words of a change name the task that a checkpoint was fine-tuned on?

    python benchmarks/adaptation.py [--steps 60 --top 20 --seed 0 --keep FOLDER]

The embedded checkpoint is fine-tuned on one attribute of its world at a time (objects, colours, backgrounds, sizes,
perils), the text tower frozen: fully (every weight of the vision tower), and by LoRA of rank 4 on the value and output
projections, merged. Then ``sith_hf.adaptation`` compares it with its base and explains the directions of the
change over all words of the world.

Printed, for each fine-tuned checkpoint: how much the heads changed, the parts of the change, how many of the poles of
the leading directions have words beyond chance, and for the first ``--top`` of these the share whose first concept is a
word of each attribute. The control of a column are its other rows: the share of the same words where the checkpoint was
fine-tuned on another attribute.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import options, started, surroundings
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, normalize

from sith_hf import ConceptDictionary, SithEditor, world
from sith_hf.demo.zeroshot import pixel_values
from sith_hf.world.scenes import TASKS, compose, encode, names_for, sample_balanced

BATCH, RATE = 64, 1e-4


def words_of(task: str) -> set[str]:
    """Return the words of an attribute, with synonyms."""
    return {word for name in TASKS[task][0] for word in names_for(name)}


def tuned(
    editor: SithEditor, task: str, steps: int, seed: int, adapt: Callable[[Any], Any] | None
) -> tuple[Any, float]:
    """Return a copy of a model fine-tuned to tell the values of one attribute apart, and its last loss."""
    model = copy.deepcopy(editor.model)
    axis, (names, templates) = list(TASKS).index(task), TASKS[task]
    with torch.no_grad():
        texts = [templates[-1].format(name) for name in names]
        tokens = editor.loaded.tokenizer(texts, padding=True, return_tensors="pt")
        text = normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("vision_model", "visual_projection")))
    model = model if adapt is None else adapt(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    average = 0.0
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        codes = encode(sample_balanced(BATCH, int(rng.integers(2**31))))
        pixels = pixel_values(compose(codes, rng))
        image = normalize(model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)
        loss = cross_entropy(editor.model.logit_scale.exp() * image @ text.T, torch.from_numpy(codes[:, axis]))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        average = 0.95 * average + 0.05 * float(loss.detach())
    return (model if adapt is None else model.merge_and_unload()).eval(), average


def lora(model: Any) -> Any:
    """Add a LoRA to the attention of the vision tower."""
    targets = r"vision_model\..*\.(v_proj|out_proj)"
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))


def measured(editor: SithEditor, model: Any, concepts: ConceptDictionary, top: int) -> dict[str, Any]:
    """Return the size and parts of a change, and what its leading directions name."""
    found = editor.compare(SithEditor.from_model(model), concepts)
    poles = [
        pole.concepts[0][0]
        for item in found.words or ()
        for pole, beyond in zip(item.poles, item.beyond_chance, strict=True)
        if beyond and pole.concepts
    ]
    data = found.to_json()
    named = {task: sum(word in words_of(task) for word in poles[:top]) for task in TASKS}
    silent, count = found.silent()
    return {
        **{key: data[key] for key in ("change", "changed_heads", "reweighting", "rotation", "new")},
        "poles": count,
        "beyond_chance": count - silent,
        "counted": len(poles[:top]),
        "named": named,
        "first_words": poles[:top],
    }


def main() -> None:
    parser = options("whether the words of a change name the task of the fine-tuning", repeats=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--top", type=int, default=20, help="poles that are counted")
    parser.add_argument("--tasks", default=",".join(TASKS), help="attributes to fine-tune on, separated by commas")
    parser.add_argument("--kinds", default="full,LoRA", help="full, LoRA, or both")
    parser.add_argument("--keep", type=Path, help="save the fine-tuned checkpoints below this folder")
    args = started(parser)
    editor = SithEditor.from_pretrained("embedded")
    concepts = editor.encode(ConceptDictionary.from_texts(world.concepts()))
    results = []
    for kind in args.kinds.split(","):
        adapt = {"full": None, "LoRA": lora}[kind]
        for task in args.tasks.split(","):
            model, loss = tuned(editor, task, args.steps, args.seed, adapt)
            if args.keep is not None:
                place = args.keep / f"{kind}-{task}"
                model.save_pretrained(place)
                editor.loaded.tokenizer.save_pretrained(place)
            result = {"kind": kind, "task": task, "loss": loss, **measured(editor, model, concepts, args.top)}
            results.append(result)
            if not args.json:
                show(result)
    if args.json:
        print(json.dumps({"results": results, **surroundings(1)}))


def show(result: dict[str, Any]) -> None:
    """Print one line."""
    parts = ", ".join(f"{name} {result[name]:.2f}" for name in ("reweighting", "rotation", "new"))
    named = ", ".join(f"{task} {count}" for task, count in result["named"].items())
    print(
        f"{result['kind']:<5}{result['task']:<12}loss {result['loss']:.3f}, change {result['change']:.3f} ({parts}); "
        f"beyond chance {result['beyond_chance']} of {result['poles']}; of {result['counted']}: {named}",
        flush=True,
    )


if __name__ == "__main__":
    main()
