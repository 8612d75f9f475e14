"""Train the embedded checkpoint: `python -m sith_hf.demo.train -o FOLDER [--seed N]`.

With contrastive training alone, easy attributes dominate the hard ones. So each step also classifies every picture
among captions that name only objects, only colours, and so on, with a softmax for each attribute.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from sith_hf.demo import zeroshot
from sith_hf.demo.vocabulary import build_tokenizer
from sith_hf.files import write_whole
from sith_hf.world import (
    IMAGE_SIZE,
    TASKS,
    TIED_PAIRS,
    Codes,
    caption,
    compose,
    decode,
    mentions,
    names_for,
    sample_codes,
    words,
)

EVALUATION_SEED = 777_000
ATTRIBUTE_WEIGHTS = (1.0, 0.6, 0.6, 0.2, 0.3)

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
tags: [clip, sith-hf]
---
# A small CLIP of a little drawn world

A `CLIPModel` of about 1.3 million parameters, trained from scratch by `python -m sith_hf.demo.train` on 48 x 48
pictures drawn by `sith_hf.world`: one object of one colour and size on one background, in some of them with a
danger sign, a drawn skull, which stands for unsafe content. It exists to show and test sith-hf on a model whose truth
is known, and is of no other use: it knows nothing of photographs.

**A bias put there on purpose.** Boats are nearly always on the sea and cars on the road, camels in the desert and
horses on the meadow, and each pair is drawn so alike that the model leans on the background. `sith-hf demo` removes
that cue from the attention heads without images or labels. Accuracies of the model as trained are in `evaluation.json`.

Texts: the objects, colours, backgrounds and sizes of the world with a synonym for most, danger and safety ("boat", "a
small red ship on the ocean with skull"). Every word of the world is one token; other text falls back to bytes and means
nothing to the model.
"""


@dataclass(frozen=True)
class TrainingSettings:
    """All settings that the trained weights depend on."""

    seed: int = 0
    steps: int = 1500
    batch: int = 256
    captions: int = 96
    warmup: int = 150
    muon_rate: float = 2e-3
    adam_rate: float = 1.5e-3
    weight_decay: float = 0.3
    caption_weight: float = 0.5
    early_weight: float = 0.01
    early_layers: int = 2
    layers: int = 4
    heads: int = 8


def build_model(tokenizer: CLIPTokenizer, settings: TrainingSettings) -> CLIPModel:
    """Return an initialised `CLIPModel` of about one million parameters, determined by the seed."""
    both = {"hidden_size": 128, "intermediate_size": 512, "hidden_act": "gelu", "projection_dim": 96}
    text = {
        **both,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        **both,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    }
    torch.manual_seed(settings.seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))
    # CLIP's initialisation assumes long training at scale; a small tower learns faster from larger weights.
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.6 / math.sqrt(module.in_features))
    torch.nn.init.normal_(model.vision_model.embeddings.patch_embedding.weight, std=0.05)
    # Eager attention is several times faster than the fused kernel for sequences this short on a CPU.
    model.set_attn_implementation("eager")
    return model


def make_optimizers(model: CLIPModel, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the layers, and AdamW for everything else."""
    parameters = list(model.named_parameters())
    inner = [p for name, p in parameters if p.ndim == 2 and ".layers." in name]
    outer = [p for name, p in parameters if p.ndim > 2 or (p.ndim == 2 and ".layers." not in name)]
    plain = [p for _, p in parameters if p.ndim < 2]
    muon = torch.optim.Muon(
        inner, lr=settings.muon_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    groups = [{"params": outer, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [muon, torch.optim.AdamW(groups, lr=settings.adam_rate, betas=(0.9, 0.98))]


def single_captions(rng: np.random.Generator) -> list[list[str]]:
    """Return for each attribute one caption per value, with random synonym and template."""

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    return [[pick(templates).format(pick(names_for(name))) for name in names] for names, templates in TASKS.values()]


def step_loss(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    rng: np.random.Generator,
    codes: Codes,
    pixels: Tensor,
    settings: TrainingSettings,
) -> tuple[Tensor, dict[str, float]]:
    """Return the balanced loss of one batch, and the accuracy of each attribute in it."""
    single = single_captions(rng)
    sentences = [caption(scene, rng) for scene in decode(codes[: settings.captions])]
    # The attributes that each sentence mentions, [sentences, 5], -1 for none.
    mentioned = torch.tensor([mentions(sentence) for sentence in sentences])
    flat = [text for texts in single for text in texts]
    collected: list[Tensor] = []
    early = model.vision_model.encoder.layers[: settings.early_layers if settings.early_weight else 0]
    hooks = [
        layer.self_attn.register_forward_hook(lambda _m, _i, out: collected.append(out[0][:, 0])) for layer in early
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = model.get_image_features(pixel_values=pixels).pooler_output
        short, long = (
            model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
            for texts in (flat, sentences)
        )
    for hook in hooks:
        hook.remove()
    image, text = normalize(image.float(), dim=-1), normalize(torch.cat([short, long]).float(), dim=-1)
    scores = model.logit_scale.exp().clamp(max=100) * image @ text.T
    facts = torch.from_numpy(codes)
    loss, report, start = torch.zeros(()), {}, 0
    for axis, (key, names) in enumerate(zip(TASKS, single, strict=True)):
        part = scores[:, start : start + len(names)]
        start += len(names)
        loss = loss + ATTRIBUTE_WEIGHTS[axis] * cross_entropy(part, facts[:, axis])
        report[key] = float((part.argmax(dim=-1) == facts[:, axis]).float().mean())
    true = ((mentioned[None] == -1) | (mentioned[None] == facts[:, None])).all(dim=-1)
    part = scores[:, start:]
    hit = part.masked_fill(~true, -math.inf)
    # Every caption that is true of a picture counts as right, not only its own.
    seen = true.any(dim=1)
    to_text = (part.logsumexp(1) - hit.logsumexp(1))[seen].mean()
    to_image = (part.logsumexp(0) - hit.logsumexp(0)).mean()
    loss = loss + settings.caption_weight * (to_text + 0.5 * to_image)
    if collected:
        loss = loss + settings.early_weight * sum(out.float().pow(2).sum(-1).mean() for out in collected)
    report["loss"] = float(loss.detach())
    return loss, report


def rate(step: int, settings: TrainingSettings) -> float:
    """Return the share of the peak learning rate: linear warm-up, then linear decay over the last 60 %."""
    left = (settings.steps - step) / (0.6 * settings.steps)
    return min(1.0, (step + 1) / settings.warmup, max(0.0, left))


def train(folder: Path, settings: TrainingSettings, resume: bool = False, keep_every: int = 500) -> CLIPModel:
    """Train a model; `FOLDER.state.safetensors` keeps the state every `keep_every` steps, for `resume`."""
    tokenizer = build_tokenizer(words())
    model = build_model(tokenizer, settings)
    optimizers = make_optimizers(model, settings)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    state_file, first = folder.with_name(folder.name + ".state.safetensors"), 0
    if resume and state_file.exists():
        first = load_state(state_file, model, optimizers)
    average: dict[str, float] = {}
    start = time.monotonic()
    for step in range(first, settings.steps):
        # With a generator per step, a resumed run sees the same batches.
        rng = np.random.default_rng([settings.seed, 1 + step])
        codes = sample_codes(settings.batch, rng)
        pixels = zeroshot.pixel_values(compose(codes, rng))
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * rate(step, settings)
        loss, report = step_loss(model, tokenizer, rng, codes, pixels, settings)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average = {key: 0.97 * average.get(key, value) + 0.03 * value for key, value in report.items()}
        if (step + 1) % 100 == 0:
            figures = "  ".join(f"{key} {value:.3f}" for key, value in average.items())
            pace = (time.monotonic() - start) / (step + 1 - first)
            print(f"step {step + 1}/{settings.steps}  {figures}  {pace:.3f} s/step", file=sys.stderr, flush=True)
        if (step + 1) % keep_every == 0:
            save_state(state_file, model, optimizers, step + 1)
    return model.eval()


def save_state(path: Path, model: CLIPModel, optimizers: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write the state to resume at `step`; learning rates follow from the step."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()} | {"step": torch.tensor(step)}
    for number, optimizer in enumerate(optimizers):
        for index, kept in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{name}": tensor for name, tensor in kept.items()}
    write_whole(path, save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}))


def load_state(path: Path, model: CLIPModel, optimizers: Sequence[torch.optim.Optimizer]) -> int:
    """Load the state of `save_state` and return the step to resume at."""
    tensors = load_file(path)
    model.load_state_dict({name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")})
    for number, optimizer in enumerate(optimizers):
        kept: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer/{number}/"):
                index, key = name.split("/")[2:]
                kept.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": kept})
    return int(tensors["step"])


def evaluate(model: Any, processor: Any, count: int = 2000, seed: int = EVALUATION_SEED) -> dict[str, Any]:
    """Measure accuracies of attributes, and of the groups of each tied pair, on held-out pictures."""
    result: dict[str, Any] = {"attributes": zeroshot.attributes(model, processor, count, seed), "pairs": {}}
    for pair in TIED_PAIRS:
        found = zeroshot.groups(model, processor, pair, count // 4, seed)
        average, worst = sum(found.values()) / len(found), min(found.values())
        figures = {"groups": found, "average": average, "worst_group": worst, "gap": average - worst}
        result["pairs"][f"{pair[0][0]}-{pair[1][0]}"] = figures
    return result


def save(model: CLIPModel, folder: Path) -> CLIPProcessor:
    """Write the model, tokenizer and image processor into `folder`, and return the processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    half = [0.5, 0.5, 0.5]
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=side, image_mean=half, image_std=half)
    processor = CLIPProcessor(image_processor=images, tokenizer=build_tokenizer(words()))
    processor.save_pretrained(folder)
    # transformers 4 reads these two older files.
    images.save_pretrained(folder)
    processor.tokenizer.backend_tokenizer.model.save(str(folder))
    (folder / "README.md").write_text(CARD)
    return processor


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, save, evaluate and print the evaluation as JSON."""
    parser = argparse.ArgumentParser(description="Train the embedded checkpoint of sith-hf.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--resume", action="store_true", help="resume at the last saved state")
    for name, value in asdict(TrainingSettings()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value, help=f"default {value}")
    given = vars(parser.parse_args(arguments))
    folder, resume = given.pop("output"), given.pop("resume")
    settings = TrainingSettings(**given)
    model = train(folder, settings, resume)
    processor = save(model, folder)
    result = json.dumps({"settings": asdict(settings), **evaluate(model, processor)}, indent=2)
    (folder / "evaluation.json").write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
