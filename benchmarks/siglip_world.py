"""Train a small ``SiglipModel`` on the drawn world: ``python benchmarks/siglip_world.py FOLDER [--seed N]``.

It has the parts of SigLIP that CLIP lacks: a sigmoid loss with a bias, a text tower without causal attention that reads
the last position of texts padded to full length, and a vision tower that pools by a probe's attention and an MLP.
As in ``sith_hf.demo.train``, each step also classifies every picture among captions that name one attribute only.
1,200 steps of 0.7 to 1.4 s in one thread (load 3 to 9).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize
from transformers import CLIPTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel

from sith_hf import world
from sith_hf.demo import zeroshot
from sith_hf.demo.train import ATTRIBUTE_WEIGHTS, TrainingSettings, make_optimizers, rate, single_captions
from sith_hf.demo.vocabulary import build_tokenizer

POSITIONS = 16
EVALUATION_SEED = 777_000
EVALUATION = "evaluation.json"


def build_model(tokenizer: CLIPTokenizer, seed: int) -> SiglipModel:
    """Return an initialised model of 1.5 million parameters, determined by the seed."""
    both = {"hidden_size": 128, "intermediate_size": 512, "hidden_act": "gelu_pytorch_tanh"}
    text = {
        **both,
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        **both,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "image_size": world.IMAGE_SIZE,
        "patch_size": 8,
    }
    torch.manual_seed(seed)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    torch.nn.init.normal_(model.vision_model.embeddings.patch_embedding.weight, std=0.05)
    torch.nn.init.normal_(model.text_model.embeddings.token_embedding.weight, std=0.5)
    torch.nn.init.normal_(model.text_model.embeddings.position_embedding.weight, std=0.2)
    torch.nn.init.normal_(model.vision_model.embeddings.position_embedding.weight, std=0.2)
    model.logit_scale.data.fill_(math.log(10.0))
    model.logit_bias.data.fill_(-3.0)
    model.set_attn_implementation("eager")
    return model


def tokens(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Return ids ``[N, POSITIONS]``, padded to full length as SigLIP's are; there is no attention mask."""
    return tokenizer(list(texts), padding="max_length", max_length=POSITIONS, return_tensors="pt").input_ids


def sigmoid_loss(scores: Tensor, true: Tensor) -> Tensor:
    """Return SigLIP's loss, summed over texts and averaged over pictures."""
    return -logsigmoid(torch.where(true, scores, -scores)).sum(1).mean()


def step_loss(
    model: SiglipModel, tokenizer: CLIPTokenizer, rng: np.random.Generator, codes: world.Codes, captions: int
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one batch, and the accuracy of each attribute in it."""
    pixels = zeroshot.pixel_values(world.compose(codes, rng))
    single = single_captions(rng)
    sentences = [world.caption(scene, rng) for scene in world.decode(codes[:captions])]
    mentioned = torch.tensor([world.mentions(sentence) for sentence in sentences])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = model.get_image_features(pixel_values=pixels).pooler_output
        flat = [text for texts in single for text in texts]
        text = model.get_text_features(input_ids=tokens(tokenizer, [*flat, *sentences])).pooler_output
    scores = normalize(image.float(), dim=-1) @ normalize(text.float(), dim=-1).T
    scores = model.logit_scale.exp() * scores + model.logit_bias
    facts = torch.from_numpy(codes)
    loss, report, start = torch.zeros(()), {}, 0
    for axis, (key, names) in enumerate(zip(world.TASKS, single, strict=True)):
        part = scores[:, start : start + len(names)]
        start += len(names)
        loss = loss + ATTRIBUTE_WEIGHTS[axis] * sigmoid_loss(
            part, facts[:, axis : axis + 1] == torch.arange(len(names))
        )
        report[key] = float((part.argmax(dim=-1) == facts[:, axis]).float().mean())
    true = ((mentioned[None] == -1) | (mentioned[None] == facts[:, None])).all(dim=-1)
    loss = loss + 0.2 * sigmoid_loss(scores[:, start:], true)
    report["loss"] = float(loss.detach())
    return loss, report


def train(settings: TrainingSettings) -> tuple[SiglipModel, CLIPTokenizer]:
    """Train a model; print its progress to stderr."""
    tokenizer = build_tokenizer(world.words())
    model = build_model(tokenizer, settings.seed)
    optimizers = make_optimizers(model, settings)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    average: dict[str, float] = {}
    start = time.monotonic()
    for step in range(settings.steps):
        rng = np.random.default_rng([settings.seed, 1 + step])
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * rate(step, settings)
        loss, report = step_loss(model, tokenizer, rng, world.sample_codes(settings.batch, rng), settings.captions)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average = {key: 0.97 * average.get(key, value) + 0.03 * value for key, value in report.items()}
        if (step + 1) % 50 == 0:
            figures = "  ".join(f"{key} {value:.3f}" for key, value in average.items())
            pace = (time.monotonic() - start) / (step + 1)
            print(f"step {step + 1}/{settings.steps}  {figures}  {pace:.3f} s/step", file=sys.stderr, flush=True)
    return model.eval(), tokenizer


@torch.no_grad()
def accuracy(model: SiglipModel, tokenizer: CLIPTokenizer, count: int = 1000, seed: int = EVALUATION_SEED) -> Any:
    """Return zero-shot accuracy of each attribute on held-out balanced pictures."""
    scenes = world.sample_balanced(count, seed)
    images, codes = zeroshot.embed_images(model, world.render(scenes, seed + 1)), world.encode(scenes)
    found = {}
    for axis, (key, (names, _)) in enumerate(world.TASKS.items()):
        texts = normalize(model.get_text_features(input_ids=tokens(tokenizer, names)).pooler_output, dim=-1)
        found[key] = float(((images @ texts.T).argmax(-1).numpy() == codes[:, axis]).mean())
    return found


def save(model: SiglipModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write model, tokenizer and image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": world.IMAGE_SIZE, "width": world.IMAGE_SIZE}
    SiglipImageProcessor(size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)


def make(folder: Path, settings: TrainingSettings) -> None:
    """Train and write a folder, with ``evaluation.json`` beside the weights."""
    model, tokenizer = train(settings)
    save(model, tokenizer, folder)
    (folder / EVALUATION).write_text(json.dumps(accuracy(model, tokenizer), indent=2) + "\n")


def settings_of(seed: int) -> TrainingSettings:
    """Return the settings of a benchmark's world."""
    return TrainingSettings(seed=seed, steps=1200, batch=128, warmup=100)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="train a small SiglipModel on the drawn world")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    make(args.folder, settings_of(args.seed))
    print((args.folder / EVALUATION).read_text(), end="")


if __name__ == "__main__":
    main()
