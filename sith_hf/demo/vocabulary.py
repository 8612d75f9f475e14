"""The tokenizer of the embedded checkpoint: byte-level BPE with one token for each word of the drawn world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_SUFFIX = "</w>"


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merge the most frequent neighbours until every word is one symbol; ties go by the alphabet.

    Args:
        words: lower-case words of plain letters.

    Returns:
        the merges in order, pairs of symbols; the last symbol of a word ends in `</w>`.
    """
    pieces = [[*word[:-1], word[-1] + _SUFFIX] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for piece in pieces for pair in pairwise(piece))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for piece in pieces:
            i = 0
            while i < len(piece) - 1:
                if (piece[i], piece[i + 1]) == best:
                    piece[i : i + 2] = ["".join(best)]
                i += 1


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Return a CLIP tokenizer with one token for each of `words`; other text falls back to bytes."""
    merges = learn_merges(words)
    # The printable symbols of the 256 bytes, in the order of CLIP's vocabulary.
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in kept] + [chr(256 + i) for i in range(256 - len(kept))]
    entries = [*symbols, *(symbol + _SUFFIX for symbol in symbols), *("".join(merge) for merge in merges)]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys([*entries, START, END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
