"""Encode texts with the text tower of a model, each as if it were alone."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from sith_hf.core.fingerprint import tensor_sha256, texts_sha256
from sith_hf.errors import InputError
from sith_hf.files import EmbeddingCache, Part, ResumableJob
from sith_hf.towers.causal_text import CausalText, is_plain
from sith_hf.towers.evaluating import evaluating
from sith_hf.towers.loading import LoadedModel
from sith_hf.towers.registry import family_of
from sith_hf.towers.text_tower import TextTower

_LOG = logging.getLogger(__name__)

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

    Each row is the embedding of its text alone, as the library's ``get_text_features`` and its processor return it.
    What texts of a causal tower share is computed once, and nothing after their end (Method, sec. 3;
    :mod:`sith_hf.towers.causal_text`). Other towers get texts of one length at a time. Half-precision text towers run
    in float32. Longer texts than the tower accepts are truncated.

    Args:
        model: a model with a text tower.
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
    text = text_tower(model)
    tokens = _tokens(text, tokenizer, texts, template)
    # Half precision would blur the difference of similar concepts.
    asked = text.float32()
    fast = CausalText.of(asked.tower, asked.projection) if asked.causal else None
    form = fast or _WholeTower(asked)
    batches = {f"{number:06d}": batch for number, batch in enumerate(form.batches(tokens, BATCH_TOKENS))}

    job = job or ResumableJob()
    if not is_plain(asked.tower, asked.projection):
        cache = None  # the facts do not say what it computes
    facts = {} if job.folder is None and cache is None else _facts(text, tokens, type(form).__name__, batches)
    shape = (len(texts), text.joint_size)
    kept = None if cache is None else cache.get(facts, shape)
    _LOG.debug("%s texts to encode%s", len(texts), "" if kept is None else ", in the cache already")

    def encode(name: str) -> Part:
        if kept is not None:
            return {"embeddings": kept[batches[name]]}
        with torch.inference_mode():
            embedding = form.embed([tokens[number] for number in batches[name]])
            found = normalize(embedding, dim=-1).float().cpu()
        if not torch.isfinite(found).all():
            raise InputError(
                "the text tower returns embeddings that are not finite: its weights are damaged, download them again"
            )
        return {"embeddings": found}

    result = torch.empty(shape)
    silent = not (progress and job.processes.is_main)
    with (
        evaluating(asked.tower),
        tqdm(total=len(texts), desc="encoding concepts", unit="concept", disable=silent) as bar,
    ):
        for name, part in job.parts("encoding", facts, list(batches), encode):
            result[batches[name]] = part["embeddings"]
            bar.update(len(batches[name]))
    if cache is not None and kept is None and job.processes.is_main:
        cache.put(facts, result)
    return result


def _tokens(text: TextTower, tokenizer: Any, texts: Sequence[str], template: str | None) -> list[list[int]]:
    """Return the tokens of each text; errors as for :func:`encode_texts`."""
    if not texts:
        raise InputError("there is no text to encode: give at least one concept")
    if tokenizer is None:
        raise InputError(text.no_tokenizer)
    tokens = text.tokens(tokenizer, fill_template(texts, template))
    if text.weight.is_meta:
        raise InputError(
            "the text tower is offloaded: load the model without offloading, or name another with text_model="
        )
    return tokens


def text_tower(model: Any) -> TextTower:
    """Return how a model encodes texts. Raises InputError if it does not."""
    found = family_of(model).text(model)
    if found is None:
        raise InputError(f"a {type(model).__name__} encodes no texts: name a model with a text tower")
    return found


def with_texts(*models: LoadedModel | None) -> LoadedModel | None:
    """Return the first of some models that encodes texts; None if none does."""
    present = (each for each in models if each is not None)
    return next((each for each in present if family_of(each.model).text(each.model) is not None), None)


def text_tower_sha256(model: Any) -> str:
    """Return the sha256 of every tensor that decides how a model embeds a text."""
    tensors = text_tower(model).tensors()
    return texts_sha256([part for name in sorted(tensors) for part in (name, tensor_sha256(tensors[name]))])


def encoder_settings(model: Any, tokenizer: Any | None) -> dict[str, Any]:
    """Return the settings of a model's text tower that are no tensors, with those of its tokenizer."""
    return text_tower(model).settings(tokenizer)


@dataclass(frozen=True, eq=False)
class _WholeTower:
    """A text tower as its own forward computes it.

    Attributes:
        text: the tower.
    """

    text: TextTower

    def batches(self, tokens: Sequence[Sequence[Any]], limit: int) -> list[list[int]]:
        """Return the numbers of the texts of each batch: of similar length, or of one length if it is not causal."""
        batches: list[list[int]] = [[]]
        for number in sorted(range(len(tokens)), key=lambda number: (len(tokens[number]), number)):
            last = batches[-1]
            full = last and (len(last) + 1) * len(tokens[number]) > limit
            if full or (last and not self.text.causal and len(tokens[last[-1]]) != len(tokens[number])):
                batches.append([])
            batches[-1].append(number)
        return batches

    def embed(self, tokens: Sequence[Sequence[Any]]) -> Tensor:
        """Return the embeddings ``[B, P]`` of texts, not normalised.

        Each is padded with its first token: in a causal tower, which reads the embedding at the first end token, this
        has no effect. A tokenizer's own padding may: checkpoints of 2021 read at the largest token.
        """
        width = max(map(len, tokens))
        rows = [[*ids, *[ids[0]] * (width - len(ids))] for ids in tokens]
        return self.text.embed(torch.tensor(rows, device=self.text.weight.device))


def _facts(text: TextTower, tokens: list[list[int]], form: str, batches: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return everything that determines the content of the batches."""
    device = text.weight.device
    return {
        "texts": _sha256(json.dumps(tokens)),
        "text tower": text_tower_sha256(text.model),
        "text tower's settings": _sha256(json.dumps(text.config.to_dict(), sort_keys=True, default=str)),
        "batches": _sha256(json.dumps([form, batches])),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
