"""Tokenizers of many classes, trained on a few words, and checkpoints that use them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    BertTokenizer,
    ByT5Tokenizer,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    T5Tokenizer,
    XLMRobertaTokenizer,
)

from tests.support.tiny import byte_tokenizer, clip_model, image_processor, randomise

WORDS = ("red boat", "a small green car on the road", "Dog", "dog", "ocean", "Straße", "naïve café", "運動", "x-ray!")
BOS, EOS, UNK, PAD = "<|startoftext|>", "<|endoftext|>", "[UNK]", "[PAD]"


def trained(kind: str, *, template: str = f"{BOS} $A {EOS}", normalizer: Any = None, **options: Any) -> Any:
    """A fast tokenizer of a model of ``tokenizers``: "bpe" (cased bytes), "wordpiece" or "unigram"."""
    special = [UNK, BOS, PAD, EOS]  # the end token is not 2, which means the largest token
    if kind == "bpe":
        made, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer: Any = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token=UNK))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token=UNK)
    if normalizer is not None:
        made.normalizer = normalizer
    made.train_from_iterator([*WORDS] * 3, trainer)
    ends = [(token, made.token_to_id(token)) for token in (BOS, EOS)]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, "pad_token": PAD, "model_max_length": 77}
    return PreTrainedTokenizerFast(tokenizer_object=made, **{**names, **options})


def without_pad(tokenizer: Any) -> Any:
    """The tokenizer without a padding token."""
    tokenizer.pad_token = None
    return tokenizer


def bert(folder: Path) -> Any:
    """A BertTokenizer, which returns ``token_type_ids`` too."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "boat", "dog", "ocean", "a", "car", "##s", "##n"]
    return BertTokenizer(vocab={word: i for i, word in enumerate([*words, *"bcdefghijklmnopqrstuvwxyz"])})


def xlm_roberta(folder: Path) -> Any:
    """A Unigram of sentencepiece, as multilingual text towers have."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁red", "▁boat", "▁do", "g", "o", "ce", "an", "D", "運", "動"]
    return XLMRobertaTokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate([*pieces, "<mask>"])])


def t5(folder: Path) -> Any:
    """A tokenizer without a start token."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁red", "▁boat", "▁do", "g", "o", "ce", "an", "D", "運", "動"]
    return T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


# Name to a function from a folder for its files to a tokenizer.
TOKENIZERS: Mapping[str, Callable[[Path], Any]] = {
    "CLIP": byte_tokenizer,
    "cased bytes": lambda folder: trained("bpe"),
    "WordPiece": lambda folder: trained("wordpiece"),
    "Unigram": lambda folder: trained("unigram"),
    "own normaliser": lambda folder: trained(
        "unigram", normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    ),
    "own template": lambda folder: trained("bpe", template=f"{BOS} $A {EOS} {EOS}"),
    "no start token": lambda folder: trained("bpe", template=f"$A {EOS}"),
    "padding on the left": lambda folder: trained("bpe", padding_side="left"),
    "no padding token": lambda folder: without_pad(trained("bpe")),
    "short model_max_length": lambda folder: trained("bpe", model_max_length=6),
    "saved truncation": lambda folder: trained("bpe", truncation=True, max_length=6),
    "BertTokenizer": bert,
    "XLMRobertaTokenizer": xlm_roberta,
    "T5Tokenizer": t5,
    "slow, bytes": lambda folder: ByT5Tokenizer(extra_ids=0),
}


def checkpoint_with(tokenizer: Any, folder: Path, *, legacy: bool = False, seed: int = 0, **text: Any) -> Path:
    """A random CLIPModel that fits a tokenizer, saved with it by transformers; ``text`` changes its text_config.

    Args:
        tokenizer: the tokenizer.
        folder: where to save.
        legacy: read at the largest token, as checkpoints of 2021 do.
        seed: of the weights.
        text: keys of ``text_config``.
    """
    config = copy.deepcopy(clip_model().config)
    written = tokenizer("dog")["input_ids"]
    ends = {"eos_token_id": 2 if legacy else written[-1], "vocab_size": max(len(tokenizer), *written, 255) + 1}
    for key, value in {**ends, **text}.items():
        setattr(config.text_config, key, value)
    randomise(CLIPModel(config), seed).save_pretrained(folder)
    CLIPProcessor(image_processor(), tokenizer).save_pretrained(folder)
    return folder


def by_transformers(folder: Path, texts: Any) -> Tensor:
    """The embeddings of texts by CLIPProcessor and CLIPModel, one text at a time, ``[M, P]``."""
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    padding = processor.tokenizer.pad_token is not None
    with torch.no_grad():
        inputs = (processor(text=[text], padding=padding, return_tensors="pt") for text in texts)
        rows = [model.get_text_features(**each).pooler_output for each in inputs]
    return normalize(torch.cat(rows), dim=-1)
