"""Encoding concepts, against the library's text tower in padded batches.

    python benchmarks/encoding.py [--concepts 0 --template "a photo of a small {}" --tokenizer FOLDER --width 512
        --layers 12 --heads 8 --threads 2 --repeats 3 --json]

- ours: ``encode_texts``.
- padded to the longest: texts sorted by length, and each batch of 8,192 tokens padded to its longest text. This was
  ``encode_texts`` before texts with a common beginning shared its states.
- padded to 77: as the processor does by default, for the first 256 concepts, and ours for the same.

All without a template and with one. The tower has random weights in the size of ViT-B/32's, the texts are the built-in
concepts (all, or ``--concepts`` of them). Without ``--tokenizer``, a stand-in with CLIP's vocabulary size makes one
token for every five letters of a word, no fewer than CLIP's for common words.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from common import interleaved, medians, options, print_table, ratio, started, surroundings
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.towers import encode_texts, fill_template

FULL, BATCH = 77, 8192
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


def padded(model: CLIPModel, tokens: list[list[int]], batches: list[list[int]], width: int | None = None) -> Tensor:
    """Return the embeddings of the library's text tower, each batch padded to its longest text or to ``width``."""
    found = torch.empty(len(tokens), model.config.projection_dim)
    for batch in batches:
        length = width or max(len(tokens[number]) for number in batch)
        rows = [tokens[number] + [END] * (length - len(tokens[number])) for number in batch]
        with torch.inference_mode():
            found[batch] = model.get_text_features(input_ids=torch.tensor(rows)).pooler_output
    return normalize(found, dim=-1)


def by_length(tokens: list[list[int]]) -> list[list[int]]:
    """Return batches of texts of similar length, of at most BATCH tokens with their padding."""
    batches: list[list[int]] = [[]]
    for number in sorted(range(len(tokens)), key=lambda number: (len(tokens[number]), number)):
        if batches[-1] and (len(batches[-1]) + 1) * len(tokens[number]) > BATCH:
            batches.append([])
        batches[-1].append(number)
    return batches


def measure(args: argparse.Namespace) -> dict[str, Any]:
    model = text_model(args)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer) if args.tokenizer else WordTokenizer()
    concepts = ConceptDictionary.builtin().texts
    texts = random.Random(args.seed).sample(concepts, args.concepts or len(concepts))
    encode_texts(model, tokenizer, texts[:32])  # warms up
    prompts = {"bare words": None, f'"{args.template}"': args.template}
    return {
        "sizes": {"concepts": len(texts), "width": args.width, "layers": args.layers, "heads": args.heads},
        "prompts": {name: compared(model, tokenizer, texts, prompt, args) for name, prompt in prompts.items()},
        **surroundings(args.repeats),
        "transformers": transformers.__version__,
    }


def compared(
    model: CLIPModel, tokenizer: Any, texts: list[str], prompt: str | None, args: argparse.Namespace
) -> dict[str, Any]:
    """Return the times of every way for one prompt, and the largest differences of the embeddings."""
    tokens = tokenizer(fill_template(texts, prompt), truncation=True, max_length=FULL)["input_ids"]
    lengths, few = [len(row) for row in tokens], min(args.full, len(texts))
    slices = [list(range(few))[start : start + BATCH // FULL] for start in range(0, few, BATCH // FULL)]
    ways = {
        "ours": lambda: encode_texts(model, tokenizer, texts, prompt),
        "padded to the longest": lambda: padded(model, tokens, by_length(tokens)),
    }
    if few:
        ways["ours, few"] = lambda: encode_texts(model, tokenizer, texts[:few], prompt)
        ways["padded to 77, few"] = lambda: padded(model, tokens[:few], slices, FULL)
    found: dict[str, Tensor] = {}
    times = interleaved(
        {name: lambda name=name, way=way: found.update({name: way()}) for name, way in ways.items()},
        args.repeats,
        warm_up=False,
    )
    pairs = {"padded to the longest": "ours", "padded to 77, few": "ours, few"}
    pairs = {slow: fast for slow, fast in pairs.items() if slow in ways}
    return {
        "tokens_per_text": round(statistics.mean(lengths), 2),
        "median_seconds": {name: round(took, 4) for name, took in medians(times).items()},
        "times_faster": {slow: round(ratio(times, slow, fast), 2) for slow, fast in pairs.items()},
        "largest_difference": {slow: float((found[slow] - found[fast]).abs().max()) for slow, fast in pairs.items()},
    }


def main() -> None:
    parser = options("encoding concepts against the library's text tower in padded batches", repeats=3)
    for name, default in (("concepts", 0), ("full", 256), ("width", 512), ("layers", 12), ("heads", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--template", default="a photo of a small {}")
    parser.add_argument("--tokenizer", help="a folder with CLIP's tokenizer, in place of the stand-in")
    args = started(parser)
    result = measure(args)
    if args.json:
        print(json.dumps(result))
        return
    for name, found in result["prompts"].items():
        findings = [
            f"{found['times_faster'][slow]:.2f} times faster than {slow}; embeddings differ by at most {most:.1e}"
            for slow, most in found["largest_difference"].items()
        ]
        print_table(
            f"Encoding {result['sizes']['concepts']} concepts, {name}, {found['tokens_per_text']} tokens a text",
            {**result, **found},
            findings,
        )


if __name__ == "__main__":
    main()
