"""Tiny random models of CLIP's relatives, with tokenizers made from a few words, and how an edit changes them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import processors
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import BertTokenizer, XLMRobertaTokenizer

from tests.support.tiny import VISION, byte_tokenizer, image_processor, randomise

WORDS = ("red boat", "dog", "ocean", "a small car", "redredred dog", "", "d o g o ce an", "red boat " * 30)

_TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def bert() -> Any:
    """A BertTokenizer, which writes token types too."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "boat", "dog", "ocean", "a", "car", "small", "##red"]
    return BertTokenizer(vocab={word: i for i, word in enumerate([*words, *"bcdefghijklmnopqrstuvwxyz"])})


def xlm_roberta() -> Any:
    """An XLMRobertaTokenizer: its padding token is 1 and its end token 2."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁red", "▁boat", "▁do", "g", "o", "ce", "an", "r", "e", "d", "▁a"]
    return XLMRobertaTokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate([*pieces, "<mask>"])])


def typed_bert() -> Any:
    """A BertTokenizer that writes the type 1 beside the words."""
    made = bert()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def _config(name: str, tokenizer: Any, text: Mapping[str, Any], **more: Any) -> Any:
    return getattr(transformers, f"{name}Config")(
        text_config={**_TEXT, "vocab_size": len(tokenizer), **text}, vision_config=VISION, projection_dim=24, **more
    )


def config_of(family: str, tokenizer: Any) -> Any:
    """A configuration of a whole model."""
    match family:
        case "metaclip_2":
            ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 20}
            return _config("MetaClip2", tokenizer, {**ends, "projection_dim": 24})
        case "altclip":
            return _config("AltCLIP", tokenizer, {"max_position_embeddings": 22, "project_dim": 20, "pad_token_id": 1})
        case "chinese_clip":
            return _config("ChineseCLIP", tokenizer, {"max_position_embeddings": 20})
        case "clipseg":
            ends = {"eos_token_id": 513, "bos_token_id": 512, "pad_token_id": 513, "max_position_embeddings": 77}
            more = {"extract_layers": [0, 1], "reduce_dim": 8, "decoder_num_attention_heads": 2}
            more |= {"decoder_intermediate_size": 16}
            return _config("CLIPSeg", tokenizer, {**ends, "projection_dim": 24}, **more)
    raise ValueError(family)


TOKENIZERS: Mapping[str, Callable[[Path], Any]] = {
    "metaclip_2": lambda folder: xlm_roberta(),
    "altclip": lambda folder: xlm_roberta(),
    "chinese_clip": lambda folder: bert(),
    "clipseg": byte_tokenizer,
}

# Family to its classes with a tower, and whether the class has texts.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "metaclip_2": (
        "MetaClip2Model", "MetaClip2VisionModel", "MetaClip2VisionModelWithProjection", "MetaClip2TextModel",
        "MetaClip2TextModelWithProjection",
    ),
    "altclip": ("AltCLIPModel", "AltCLIPVisionModel"),
    "chinese_clip": ("ChineseCLIPModel", "ChineseCLIPVisionModel"),
    "clipseg": ("CLIPSegModel", "CLIPSegForImageSegmentation", "CLIPSegVisionModel", "CLIPSegTextModel"),
}  # fmt: skip

# Family to the towers of its whole model that can be edited.
TOWERS = {"metaclip_2": ("vision", "text"), "clipseg": ("vision", "text"), "altclip": ("vision",),
          "chinese_clip": ("vision",)}  # fmt: skip


def make(family: str, architecture: str, tokenizer: Any, seed: int = 0, **settings: Any) -> Any:
    """A random model; ``settings`` change its configuration."""
    config = config_of(family, tokenizer)
    for name, value in settings.items():
        setattr(config, name, value)
    if "Vision" in architecture:
        config = config.vision_config
    elif "TextModel" in architecture:
        config = config.text_config
    model = randomise(getattr(transformers, architecture)(copy.deepcopy(config)), seed)
    with torch.no_grad():  # so that the first token of a text sees the others
        for name, parameter in model.named_parameters():
            if ".LayerNorm.weight" in name or "pre_LN.weight" in name:
                parameter.add_(1)
            elif ".query.weight" in name or ".value.weight" in name:
                parameter.mul_(3)
    return model


def save(family: str, architecture: str, folder: Path, seed: int = 0, **options: Any) -> Path:
    """Save a random model as ``save_pretrained`` does, with its tokenizer and image processor."""
    tokenizer = TOKENIZERS[family](folder / "t")
    make(family, architecture, tokenizer, seed).save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def whole(model: Any) -> Any:
    """The part of a model with both towers and their projections."""
    return getattr(model, "clip", model)


def encoder_of(model: Any, kind: str) -> Any:
    """The encoder of a tower."""
    return getattr(whole(model), f"{kind}_model", model).encoder


def text_features(model: Any, tokenizer: Any, texts: Any) -> Tensor:
    """The library's embeddings of texts, one text at a time, each cut to what its text tower can read."""
    config, rows = model.config.text_config, []
    limit = config.max_position_embeddings - (config.pad_token_id + 1 if config.model_type.startswith("altclip") else 0)
    for text in texts:
        batch = tokenizer([text], return_tensors="pt", truncation=True, max_length=limit)
        with torch.no_grad():
            rows.append(whole(model).get_text_features(**batch).pooler_output)
    return normalize(torch.cat(rows), dim=-1)


def literal_edit(model: Any, kind: str, gains: Mapping[tuple[int, int, int], float], *, fold: bool) -> Any:
    """A float64 copy of a model whose heads have explicit edited value-output matrices, one D x D matrix each.

    Each head's matrix is factored by a plain SVD of the product, its singular values are multiplied by gains, and the
    attention of the layer is computed with the result, beside the head's constant output.
    """
    edited = copy.deepcopy(model).double().eval()
    for number in sorted({layer for layer, _, _ in gains}):
        layer = encoder_of(edited, kind).layers[number]
        heads = {
            head: {vector: gain for (n, h, vector), gain in gains.items() if (n, h) == (number, head)}
            for n, head, _ in gains
            if n == number
        }
        layer.self_attn = LiteralAttention(layer, heads, fold=fold)
    return edited


class LiteralAttention(nn.Module):
    """The attention of a layer, with explicit value-output matrices."""

    def __init__(self, layer: Any, gains: Mapping[int, Mapping[int, float]], *, fold: bool) -> None:
        super().__init__()
        self.inner, norm = layer.self_attn, layer.layer_norm1
        size = self.inner.embed_dim
        self.heads, self.width = self.inner.num_heads, size // self.inner.num_heads
        self.matrices, self.constants = [], []
        centre = torch.eye(size, dtype=torch.float64) - 1 / size
        gamma, beta = norm.weight.detach(), norm.bias.detach()
        self.gamma, self.beta, self.fold = gamma, beta, fold
        for head in range(self.heads):
            rows = slice(head * self.width, (head + 1) * self.width)
            value, out = self.inner.v_proj.weight.detach()[rows], self.inner.out_proj.weight.detach()[:, rows]
            bias = self.inner.v_proj.bias.detach()[rows]
            read = value * gamma @ centre if fold else value
            product = (centre @ out if fold else out) @ read
            left, values, right = torch.linalg.svd(product)
            change = torch.zeros_like(product)
            for vector, gain in gains.get(head, {}).items():
                change += (gain - 1) * values[vector] * torch.outer(left[:, vector], right[vector])
            self.matrices.append((out @ value, change))
            self.constants.append(out @ bias)

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, **kwargs: Any) -> tuple[Tensor, None]:
        """The output of all heads; attention weights as they are."""
        batch, tokens, size = hidden_states.shape
        shape = (batch, tokens, self.heads, self.width)
        query = self.inner.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.inner.k_proj(hidden_states).view(shape).transpose(1, 2)
        scores = query @ key.transpose(2, 3) * self.width**-0.5
        if kwargs.get("is_causal"):
            scores = scores.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), float("-inf"))
        weights = scores.softmax(dim=-1)
        bare = (hidden_states - self.beta) / self.gamma if self.fold else hidden_states
        output = self.inner.out_proj.bias.expand(batch, tokens, size).clone()
        for head, (plain, change) in enumerate(self.matrices):
            output += weights[:, head] @ (hidden_states @ plain.T + self.constants[head] + bare @ change.T)
        return output, None
