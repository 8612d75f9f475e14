"""Encode texts with a CLIP text tower, each as if it were alone."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm import tqdm

from sith_hf.core.fingerprint import text_tower_sha256
from sith_hf.errors import InputError
from sith_hf.files import EmbeddingCache, Part, ResumableJob
from sith_hf.towers.causal_text import CausalText, is_plain
from sith_hf.towers.tokenizer import tokenize

# Tokens in one batch: small enough for the activations of a ViT-H text tower.
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
    cache: EmbeddingCache | None = None,
    progress: bool = False,
) -> Tensor:
    """Return normalised text embeddings, ``[M, P]`` float32, in the order of ``texts``.

    Each row is the embedding of its text alone: ``get_text_features(**processor(text, padding=True))``. Attention is
    causal and the embedding is read at the end token, so nothing after it is computed (Method, sec. 3), and what texts
    share is computed once (:mod:`sith_hf.towers.causal_text`). Half-precision text towers run in float32. Longer texts
    than the tower accepts are truncated.

    Args:
        model: a ``CLIPModel``.
        tokenizer: its tokenizer, of any class of ``transformers``.
        texts: at least one.
        template: a prompt such as ``"a photo of a {}"``.
        job: stores finished batches and distributes batches over its processes. Every process returns the whole
            result, with the bits of a single process with as many threads.
        cache: has the result of an earlier run, with the same bits, or keeps this one; None computes it.
        progress: show a bar on stderr.

    Raises:
        InputError: no text, a bad template, no tokenizer or one that does not fit the tower, or an embedding that is
            not finite.
    """
    if not texts:
        raise InputError("there is no text to encode: give at least one concept")
    if tokenizer is None:
        raise InputError("the text model has no tokenizer: use a folder or Hub id with one")
    tokens = tokenize(tokenizer, fill_template(texts, template), model.text_model)
    tower, projection = model.text_model, model.text_projection
    if projection.weight.is_meta:
        raise InputError(
            "the text tower is offloaded: load the model without offloading, or name another with text_model="
        )
    if projection.weight.dtype in (torch.bfloat16, torch.float16):
        # Half precision would blur the difference of similar concepts. Convert a copy, not the model.
        tower, projection = copy.deepcopy(tower).float(), copy.deepcopy(projection).float()
    text = CausalText.of(tower, projection) or _WholeTower(tower, projection)
    batches = {f"{number:06d}": batch for number, batch in enumerate(text.batches(tokens, BATCH_TOKENS))}

    job = job or ResumableJob()
    if not is_plain(tower, projection):
        cache = None  # the facts do not say what it computes
    facts = {} if job.folder is None and cache is None else _facts(model, tokens, type(text).__name__, batches)
    shape = (len(texts), projection.weight.shape[0])
    kept = None if cache is None else cache.get(facts, shape)

    def encode(name: str) -> Part:
        if kept is not None:
            return {"embeddings": kept[batches[name]]}
        with torch.inference_mode():
            embedding = text.embed([tokens[number] for number in batches[name]])
            found = normalize(embedding, dim=-1).float().cpu()
        if not torch.isfinite(found).all():
            raise InputError(
                "the text tower returns embeddings that are not finite: its weights are damaged, download them again"
            )
        return {"embeddings": found}

    result = torch.empty(shape)
    training = [module for module in tower.modules() if module.training]
    tower.eval()
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
    if cache is not None and kept is None and job.processes.is_main:
        cache.put(facts, result)
    return result


@dataclass(frozen=True, eq=False)
class _WholeTower:
    """A causal text tower as its own forward computes it, in batches of similar length.

    Attributes:
        tower, projection: as in :class:`sith_hf.towers.causal_text.CausalText`.
    """

    tower: Any
    projection: nn.Module

    def batches(self, tokens: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
        """Return the numbers of the texts of each batch."""
        batches: list[list[int]] = [[]]
        for number in sorted(range(len(tokens)), key=lambda number: (len(tokens[number]), number)):
            if batches[-1] and (len(batches[-1]) + 1) * len(tokens[number]) > limit:
                batches.append([])
            batches[-1].append(number)
        return batches

    def embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Return the embeddings ``[B, P]`` of texts, not normalised.

        Each is padded with its first token: attention is causal and the embedding is read at the first end token, so
        this has no effect. A tokenizer's own padding may: checkpoints of 2021 read at the largest token.
        """
        width = max(map(len, tokens))
        rows = [[*ids, *[ids[0]] * (width - len(ids))] for ids in tokens]
        ids = torch.tensor(rows, device=next(self.projection.parameters()).device)
        found: Tensor = self.projection(self.tower(input_ids=ids, return_dict=True).pooler_output)
        return found


def _facts(model: Any, tokens: list[list[int]], form: str, batches: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return everything that determines the content of the batches."""
    config, device = model.config.text_config.to_dict(), model.text_projection.weight.device
    return {
        "texts": _sha256(json.dumps(tokens)),
        "text tower": text_tower_sha256(model),
        "text tower's settings": _sha256(json.dumps(config, sort_keys=True, default=str)),
        "batches": _sha256(json.dumps([form, batches])),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
