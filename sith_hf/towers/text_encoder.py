"""Encode texts with a CLIP text tower, each as if it were alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from sith_hf.core.fingerprint import tensor_sha256, texts_sha256
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.towers.registry import family_of
from sith_hf.towers.text_tower import TextTower

# Tokens in one batch: enough to fill two cores, small enough for the activations of a ViT-H text tower.
BATCH_TOKENS = 8192


def fill_template(texts: Sequence[str], template: str | None) -> list[str]:
    """Insert each text into ``template``. Raises InputError unless it has exactly one ``{}``."""
    if template is None:
        return list(texts)
    if template.count("{}") != 1:
        raise InputError(
            f'a template must have exactly one {{}} for the concept, such as "a photo of a {{}}"; got {template!r}'
        )
    return [template.replace("{}", text) for text in texts]


def encode_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    template: str | None = None,
    *,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> Tensor:
    """Return normalised text embeddings, ``[M, P]`` float32, in the order of ``texts``.

    Each row is the embedding of its text alone, as the library's ``get_text_features`` and its processor return it.
    Texts are sorted by length. Batches of a causal tower are padded to their longest text with the first token of each:
    the tower reads the embedding at the first end token, so this padding never has an effect (Method, sec. 3). A
    tokenizer's own padding token may: checkpoints of 2021 read at the largest token. Other towers get texts of one
    length at a time. Half-precision text towers run in float32. Longer texts than the tower accepts are truncated.

    Args:
        model: a model with a text tower.
        tokenizer: its tokenizer, of any class of ``transformers``.
        texts: at least one.
        template: a prompt such as ``"a photo of a {}"``.
        job: stores finished batches and distributes batches over its processes. Every process returns the whole
            result, with the bits of a single process with as many threads.
        progress: show a bar on stderr.

    Raises:
        InputError: no text, a bad template, no tokenizer or one that does not fit the tower, or an embedding that is
            not finite.
    """
    if not texts:
        raise InputError("there is no text to encode: give at least one concept")
    text = text_tower(model)
    if tokenizer is None:
        raise InputError(text.no_tokenizer)
    tokens = text.tokens(tokenizer, fill_template(texts, template))
    order = sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i))
    if text.weight.is_meta:
        raise InputError(
            "the text tower is offloaded: load the model without offloading, or name another with text_model="
        )
    # Half precision would blur the difference of similar concepts.
    asked = text.float32()
    batches = {f"{number:06d}": batch for number, batch in enumerate(_batches(order, tokens, text.causal))}

    def encode(name: str) -> Part:
        batch = batches[name]
        width = len(tokens[batch[-1]])
        ids = torch.tensor(
            [tokens[i] + tokens[i][:1] * (width - len(tokens[i])) for i in batch], device=asked.weight.device
        )
        with torch.inference_mode():
            found = normalize(asked.embed(ids), dim=-1).float().cpu()
        if not torch.isfinite(found).all():
            raise InputError(
                "the text tower returns embeddings that are not finite: its weights are damaged, download them again"
            )
        return {"embeddings": found}

    job = job or ResumableJob()
    facts = {} if job.folder is None else _facts(text, tokens)
    result = torch.empty(len(texts), text.joint_size)
    training = [module for module in asked.tower.modules() if module.training]
    asked.tower.eval()
    try:
        with tqdm(
            total=len(texts),
            desc="encoding concepts",
            unit="concept",
            disable=not (progress and job.processes.is_main),
        ) as bar:
            for name, part in job.parts("encoding", facts, list(batches), encode):
                result[batches[name]] = part["embeddings"]
                bar.update(len(batches[name]))
    finally:
        for module in training:
            module.training = True
    return result


def text_tower(model: Any) -> TextTower:
    """Return how a model encodes texts. Raises InputError if it does not."""
    found = family_of(model).text(model)
    if found is None:
        raise InputError(f"a {type(model).__name__} encodes no texts: name a model with a text tower")
    return found


def text_tower_sha256(model: Any) -> str:
    """Return the sha256 of every tensor that decides how a model embeds a text."""
    tensors = text_tower(model).tensors()
    return texts_sha256([part for name in sorted(tensors) for part in (name, tensor_sha256(tensors[name]))])


def encoder_settings(model: Any, tokenizer: Any | None) -> dict[str, Any]:
    """Return the settings of a model's text tower that are no tensors, with those of its tokenizer."""
    return text_tower(model).settings(tokenizer)


def _facts(text: TextTower, tokens: list[list[int]]) -> dict[str, Any]:
    """Return everything that determines the content of the batches."""
    config = json.dumps(text.config.to_dict(), sort_keys=True, default=str)
    return {
        "texts": hashlib.sha256(json.dumps(tokens).encode("ascii")).hexdigest(),
        "text tower": text_tower_sha256(text.model),
        "text tower's settings": hashlib.sha256(config.encode()).hexdigest(),
        "batches": BATCH_TOKENS,
        "device": str(text.weight.device.type),
    }


def _batches(order: list[int], tokens: list[list[int]], mixed: bool) -> list[list[int]]:
    """Return batches of texts; of different lengths in one batch only if ``mixed``."""
    batches: list[list[int]] = [[]]
    for index in order:
        last = batches[-1]
        full = last and (len(last) + 1) * len(tokens[index]) > BATCH_TOKENS
        if full or (last and not mixed and len(tokens[last[-1]]) != len(tokens[index])):
            batches.append([])
        batches[-1].append(index)
    return batches
