"""Encoding short concepts at their own length against padding to the text tower's full length.

    python benchmarks/encoding.py [--concepts 256 --width 512 --layers 12 --heads 8 --threads 2 --repeats 3 --json]

- ours: ``encode_texts``.
- padded: every text padded to 77 tokens, with the same number of batches.
- padded, small batches: the same in batches of about as many tokens as ours. The ratio is against the faster one.

The tower has random weights in the size of ViT-B/32's. Texts are drawn from the built-in concepts. A stand-in tokenizer
with CLIP's vocabulary size makes one token for every five letters of a word, no fewer than CLIP's for common words.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from common import interleaved, medians, options, ratio, show, started, surroundings
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.towers import text_encoder as encoding

FULL = 77
START, END = 49406, 49407


class WordTokenizer:
    """Convert texts to token numbers, as ``encode_texts`` expects."""

    pad_token_id = eos_token_id = END

    def __call__(self, texts: Sequence[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        return {"input_ids": [[START, *self._words(text)[: max_length - 2], END] for text in texts]}

    @staticmethod
    def _words(text: str) -> list[int]:
        pieces = [word[i : i + 5] for word in text.split() for i in range(0, len(word), 5)]
        return [int.from_bytes(hashlib.sha256(piece.encode()).digest()[:4], "big") % START for piece in pieces]


def text_model(args: argparse.Namespace) -> CLIPModel:
    """Return a random CLIPModel with a text tower of the given size and a tiny vision tower."""
    text = {
        "vocab_size": END + 1,
        "hidden_size": args.width,
        "intermediate_size": 4 * args.width,
        "num_attention_heads": args.heads,
        "num_hidden_layers": args.layers,
        "max_position_embeddings": FULL,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    torch.manual_seed(args.seed)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=args.width)).eval()


def padded(model: CLIPModel, tokens: list[list[int]], batch: int) -> Tensor:
    """Return embeddings with every text padded to the full length."""
    ids = torch.tensor([row + [END] * (FULL - len(row)) for row in tokens])
    with torch.inference_mode():
        parts = [model.get_text_features(input_ids=part).pooler_output for part in ids.split(batch)]
    return normalize(torch.cat(parts), dim=-1)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = text_model(args), WordTokenizer()
    texts = random.Random(args.seed).sample(ConceptDictionary.builtin().texts, args.concepts)
    tokens = tokenizer(texts, truncation=True, max_length=FULL)["input_ids"]
    lengths = [len(row) for row in tokens]
    budget = encoding.BATCH_TOKENS
    batches = -(-sum(lengths) // budget)
    names = {"padded": -(-args.concepts // batches), "padded, small batches": max(1, budget // FULL)}
    encoding.encode_texts(model, tokenizer, texts[:32])  # warms up
    times = interleaved(
        {
            "ours": lambda: encoding.encode_texts(model, tokenizer, texts),
            **{name: lambda size=size: padded(model, tokens, size) for name, size in names.items()},
        },
        args.repeats,
        warm_up=False,
    )
    fastest = min(names, key=lambda name: statistics.median(times[name]))
    difference = encoding.encode_texts(model, tokenizer, texts) - padded(model, tokens, names[fastest])
    return {
        "sizes": {"concepts": args.concepts, "width": args.width, "layers": args.layers, "heads": args.heads},
        "tokens_per_text": round(statistics.mean(lengths), 2),
        "batch_sizes": {"ours": -(-args.concepts // batches), **names},
        "median_seconds": {name: round(took, 4) for name, took in medians(times).items()},
        "fastest_padded": fastest,
        "padded_over_ours": round(ratio(times, fastest, "ours"), 2),
        "largest_difference": float(difference.abs().max()),
        **surroundings(args.repeats),
        "transformers": transformers.__version__,
    }


def main() -> None:
    parser = options("encoding at a text's own length against padding to the full length", repeats=3)
    for name, default in (("concepts", 256), ("width", 512), ("layers", 12), ("heads", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = started(parser)
    result = measure(args)
    findings = [
        f"{result['fastest_padded']} / ours: {result['padded_over_ours']:.1f}  (bar: 5)",
        f"{result['tokens_per_text']} tokens a text instead of {FULL}; "
        f"embeddings differ by at most {result['largest_difference']:.1e}",
    ]
    show("Encoding", args, result, findings)


if __name__ == "__main__":
    main()
