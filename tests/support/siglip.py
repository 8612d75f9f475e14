"""Tiny random SigLIP models, with tokenizers that pad on either side, and a forward with explicit matrices."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import Siglip2Tokenizer, SiglipImageProcessorPil

from tests.support.families import LiteralAttention
from tests.support.tiny import byte_tokenizer, randomise

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ▁.,!"
_SPECIAL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}


def siglip(architecture: str = "SiglipModel", seed: int = 0, **vision: Any) -> Any:
    """A random model of a class of SigLIP or SigLIP 2, with the tokens of :func:`byte_tokenizer`."""
    title = "Siglip2" if architecture.startswith("Siglip2") else "Siglip"
    images = {"num_patches": 16} if title == "Siglip2" else {"image_size": 16}
    text = {
        **SIZES,
        "hidden_size": 24,
        "projection_size": 32,
        "vocab_size": 514,
        "max_position_embeddings": 24,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    config = getattr(transformers, f"{title}Config")(
        text_config={**text, "pad_token_id": 513}, vision_config={**SIZES, **images, "patch_size": 4, **vision}
    )
    whole = randomise(getattr(transformers, f"{title}Model")(config), seed)
    return {
        f"{title}Model": whole,
        f"{title}VisionModel": whole.vision_model,
        f"{title}TextModel": whole.text_model,
    }[architecture]


def letters(**options: Any) -> Siglip2Tokenizer:
    """A Siglip2Tokenizer of letters; it writes lower case."""
    return Siglip2Tokenizer(
        vocab={**_SPECIAL, **{letter: 5 + i for i, letter in enumerate(_LETTERS)}}, merges=[], **options
    )


def save(folder: Path, architecture: str = "SiglipModel", seed: int = 0, **options: Any) -> Path:
    """Save a random model as ``save_pretrained`` does, with its tokenizer and image processor."""
    siglip(architecture, seed, **options.pop("vision", {})).save_pretrained(folder, **options)
    byte_tokenizer(folder / "t").save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def inputs(model: Any, kind: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random images or texts for a tower of a model."""
    generator = torch.Generator().manual_seed(7)
    if kind == "text":
        return {"input_ids": torch.randint(0, 500, (3, 24), generator=generator)}
    if type(model).__name__.startswith("Siglip2"):
        pixels = torch.randn(3, 6, 48, generator=generator, dtype=dtype)
        shapes = torch.tensor([[2, 3], [3, 2], [1, 6]])
        return {"pixel_values": pixels, "pixel_attention_mask": torch.ones(3, 6), "spatial_shapes": shapes}
    return {"pixel_values": torch.randn(3, 3, 16, 16, generator=generator, dtype=dtype)}


def tower_of(model: Any, kind: str) -> Any:
    """The module of a tower in a model."""
    return getattr(model, f"{kind}_model", model)


def outputs(model: Any, kind: str) -> Tensor:
    """What a tower computes in float64: its states, and the pooled output if there is one."""
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        found = tower_of(model, kind)(**inputs(model, kind))
    pooled = [] if found.pooler_output is None else [found.pooler_output.flatten()]
    return torch.cat([found.last_hidden_state.flatten(), *pooled])


def literal_edit(model: Any, kind: str, gains: Mapping[tuple[int, int, int], float], *, fold: bool) -> Any:
    """A float64 copy of a model whose edited layers have one explicit D x D matrix for each head."""
    edited = copy.deepcopy(model).double().eval()
    tower = tower_of(edited, kind)
    count = len(tower.encoder.layers)
    for number in sorted({layer for layer, _, _ in gains}):
        heads: dict[int, dict[int, float]] = {}
        for (layer, head, vector), gain in gains.items():
            if layer == number:
                heads.setdefault(head, {})[vector] = gain
        if number == count:
            tower.head.attention = LiteralPool(tower.head.attention, tower.post_layernorm, heads, fold=fold)
        else:
            tower.encoder.layers[number].self_attn = LiteralAttention(tower.encoder.layers[number], heads, fold=fold)
    return edited


class LiteralPool(nn.Module):
    """The attention of a pooling head: a probe attends to all tokens, and each head has an explicit matrix."""

    def __init__(self, inner: Any, norm: Any, gains: Mapping[int, Mapping[int, float]], *, fold: bool) -> None:
        super().__init__()
        size = inner.embed_dim
        self.inner, self.width, self.fold = inner, size // inner.num_heads, fold
        self.query, self.key, self.value = inner.in_proj_weight.detach().chunk(3)
        self.bias = inner.in_proj_bias.detach().chunk(3)
        self.gamma, self.beta = norm.weight.detach(), norm.bias.detach()
        centre = torch.eye(size, dtype=torch.float64) - 1 / size
        self.changes = []
        for head in range(inner.num_heads):
            rows = self.rows(head)
            # What the head writes is part of the embedding: nothing removes its mean.
            read = self.value[rows] * self.gamma @ centre if fold else self.value[rows]
            left, values, right = torch.linalg.svd(inner.out_proj.weight.detach()[:, rows] @ read)
            change = torch.zeros(size, size, dtype=torch.float64)
            for vector, gain in gains.get(head, {}).items():
                change += (gain - 1) * values[vector] * torch.outer(left[:, vector], right[vector])
            self.changes.append(change)

    def rows(self, head: int) -> slice:
        """The rows of a head."""
        return slice(head * self.width, (head + 1) * self.width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> tuple[Tensor]:
        """The output of the edited heads."""
        asked = query @ self.query.T + self.bias[0]
        found, values = key @ self.key.T + self.bias[1], value @ self.value.T + self.bias[2]
        bare = (value - self.beta) / self.gamma if self.fold else value
        output = self.inner.out_proj.bias.expand(*asked.shape).clone()
        for head, change in enumerate(self.changes):
            rows = self.rows(head)
            scores = asked[..., rows] @ found[..., rows].mT * self.width**-0.5
            if attn_mask is not None:
                scores = scores + attn_mask.reshape(len(scores), -1, *scores.shape[1:])[:, head]
            weights = scores.softmax(dim=-1)
            output += weights @ (values[..., rows] @ self.inner.out_proj.weight[:, rows].T + bare @ change.T)
        return (output,)
