"""Load the tokenizer of a checkpoint, and turn texts into the tokens that its text tower reads."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from sith_hf.core.escaping import one_line, sanitize
from sith_hf.core.reading import LFS_POINTER, is_lfs_pointer, read_json_object, read_start
from sith_hf.errors import InputError, MissingExtra
from sith_hf.towers.causal_text import end_token, read_position, reads_largest
from sith_hf.towers.model_settings import UNUSABLE, max_tokens

# The file of a whole tokenizer; without it, the files of a vocabulary are read.
WHOLE = "tokenizer.json"
# Vocabularies that need no other package; SentencePiece models end in .model.
_PLAIN = ("vocab.json", "merges.txt", "vocab.txt")
_FILES = (WHOLE, "tokenizer_config.json", *_PLAIN)

_ADVICE = "download the tokenizer's files again, or save them with save_pretrained"

_Result = TypeVar("_Result")


def load_tokenizer(folder: Path) -> Any | None:
    """Return the tokenizer that ``AutoTokenizer`` finds in a folder; None without one. No code of the folder runs.

    Raises:
        InputError: a file of the tokenizer is damaged, or its class cannot be loaded.
        MissingExtra: its vocabulary is a SentencePiece model, and sentencepiece or protobuf is not installed.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _FILES) and not any(folder.glob("*.model")):
        return None
    for name in (WHOLE, "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json_object(folder / name, _ADVICE)
    if not (folder / WHOLE).is_file():
        _check_fetched(folder)
        if not any((folder / name).is_file() for name in _PLAIN):
            _check_sentencepiece(folder)
    try:
        tokenizer = guarded(
            lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True),
            f"{folder}: its tokenizer cannot be loaded",
        )
    except InputError:
        _check_sentencepiece(folder)
        raise
    # Without the files, transformers 5 returns a tokenizer that maps every text to unknown tokens.
    return tokenizer if len(tokenizer) > len(tokenizer.all_special_ids) else None


def tokenize(tokenizer: Any, texts: Sequence[str], tower: Any) -> list[list[int]]:
    """Return the token ids of each text alone, as ``CLIPProcessor`` passes them: not padded, cut to the tower's length.

    Args:
        tokenizer: any tokenizer of ``transformers``.
        texts: at least one.
        tower: the module that reads them, such as a ``CLIPTextModel``.

    Raises:
        InputError: the tokenizer fails, knows none of the texts, or writes tokens that the tower cannot read.
    """
    tokens: list[list[int]] = written(tokenizer, texts, tower, tower.config.max_position_embeddings)["input_ids"]
    _check_end(tokens, texts, tokenizer, tower)
    return tokens


def tokenize_with_types(tokenizer: Any, texts: Sequence[str], tower: Any, positions: int) -> list[list[list[int]]]:
    """Return each token of each text alone with its type, a number that some tokenizers write beside it and 0 else.

    For towers in which every token sees every other, such as BERT's: they need no end token.

    Args:
        tokenizer, texts: as for :func:`tokenize`.
        tower: the text model that reads them.
        positions: the number of tokens that it can read.

    Raises:
        InputError: as for :func:`tokenize`.
    """
    found = written(tokenizer, texts, tower, positions)
    tokens = found["input_ids"]
    types = found.get("token_type_ids") or [[0] * len(ids) for ids in tokens]
    count = tower.config.type_vocab_size
    for ids, text in zip(types, texts, strict=True):
        if not 0 <= min(ids) <= max(ids) < count:
            raise InputError(
                f"the tokenizer returns the token type {max(ids)} for {_shown(text)}, but the text tower has {count} "
                "types: this tokenizer belongs to another model; use the one of this checkpoint"
            )
    return [list(map(list, zip(*pair, strict=True))) for pair in zip(tokens, types, strict=True)]


def full_length(tokenizer: Any, positions: int) -> int:
    """Return the number of tokens that texts are padded and cut to, for a text tower with so many positions."""
    return int(min(positions, tokenizer.model_max_length))


def tokenize_padded(tokenizer: Any, texts: Sequence[str], tower: Any) -> list[list[list[int]]]:
    """Return each token of texts padded to full length with 1, or 0 if an attention mask hides it.

    This is what the zero-shot pipeline of ``transformers`` passes to SigLIP: padding has the side and the token that
    the tokenizer says, and is hidden only if the tokenizer returns a mask.

    Args:
        tokenizer, texts: as for :func:`tokenize`.
        tower: the text model that reads them.

    Raises:
        InputError: as for :func:`tokenize`.
    """
    found = written(tokenizer, texts, tower, tower.config.max_position_embeddings, padded=True)
    tokens = found["input_ids"]
    masks = found.get("attention_mask") or [[1] * len(ids) for ids in tokens]
    return [list(map(list, zip(*pair, strict=True))) for pair in zip(tokens, masks, strict=True)]


def written(tokenizer: Any, texts: Sequence[str], tower: Any, positions: int, *, padded: bool = False) -> Any:
    """Return what the tokenizer writes for texts, cut to so many tokens or fewer, after checks."""

    def call() -> Any:
        if padded:
            limit = full_length(tokenizer, positions)
            return tokenizer(list(texts), padding="max_length", truncation=True, max_length=limit)
        return tokenizer(list(texts), truncation=True, max_length=max_tokens(tokenizer, positions))

    found = guarded(call, "the tokenizer cannot read the texts")
    _check_ids(found["input_ids"], texts, tower)
    _check_known(found["input_ids"], texts, tokenizer)
    return found


def _check_sentencepiece(folder: Path) -> None:
    """Raise MissingExtra for a SentencePiece model that no installed package reads."""
    if any(folder.glob("*.model")):
        for module, package in (("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")):
            try:
                found = find_spec(module)
            except ModuleNotFoundError:  # of the package above it
                found = None
            if found is None:
                raise MissingExtra(package, "sentencepiece")


def _check_fetched(folder: Path) -> None:
    """Refuse git-lfs pointers in place of a vocabulary: some classes would read one as a vocabulary of three words."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model") and path.is_file() and is_lfs_pointer(read_start(path, 64)):
            raise InputError(f"{path}: {LFS_POINTER}")


def guarded(call: Callable[[], _Result], what: str) -> _Result:
    """Return the result of a call into the library in Rust. Raises InputError for what it and transformers raise."""
    try:
        with _stderr_without_panics():
            return call()
    except BaseException as error:
        # The library raises a bare Exception for a tokenizer.json that it cannot use, and a BaseException of its own
        # where it panics; nothing narrower catches these two. Every other kind passes.
        if not (type(error) is Exception or _is_panic(error) or isinstance(error, UNUSABLE)):
            raise
        raise InputError(f"{what} ({one_line(error)}): {_ADVICE}") from None


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


@contextmanager
def _stderr_without_panics() -> Iterator[None]:
    """Hold back what the block writes on stderr; drop it if the block ends in a panic, which Rust prints there."""
    print(end="", file=sys.stderr, flush=True)
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        panicked = False
        try:
            yield
        except BaseException as error:
            panicked = _is_panic(error)
            raise
        finally:
            print(end="", file=sys.stderr, flush=True)
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            if not panicked:
                os.write(2, held.read())


def _check_ids(tokens: Sequence[Sequence[int]], texts: Sequence[str], tower: Any) -> None:
    count = tower.config.vocab_size
    for ids, text in zip(tokens, texts, strict=True):
        if not ids:
            raise InputError(f"the tokenizer returns no token for {_shown(text)}, not even an end token: {_ADVICE}")
        if not 0 <= min(ids) <= max(ids) < count:
            wrong = max(ids) if max(ids) >= count else min(ids)
            raise InputError(
                f"the tokenizer returns the token {wrong} for {_shown(text)}, but the text tower has the tokens 0 to "
                f"{count - 1}: this tokenizer belongs to another model; use the one of this checkpoint"
            )


def _check_known(tokens: Sequence[Sequence[int]], texts: Sequence[str], tokenizer: Any) -> None:
    names = ("bos", "eos", "pad", "unk", "cls", "sep")
    empty = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    words = [(ids, text) for ids, text in zip(tokens, texts, strict=True) if text.strip()]
    if words and all(empty.issuperset(ids) for ids, _ in words):
        ids, text = words[0]
        raise InputError(
            f"the tokenizer knows no part of any text: {_shown(text)} becomes {_ids(ids)}, which are special tokens "
            "only, so that every text would get the same embedding; its vocabulary belongs to another model or language"
        )


def _check_end(tokens: Sequence[Sequence[int]], texts: Sequence[str], tokenizer: Any, tower: Any) -> None:
    """Refuse tokens from which the tower would read one embedding for every text.

    Attention is causal, and the embedding is read at the end token: tokens after it have no effect. Where there is no
    end token, the tower reads the first token.
    """
    end, own = end_token(tower), getattr(tokenizer, "eos_token_id", None)
    advice = (
        "set text_config.eos_token_id in config.json to the token that this tokenizer writes at the end "
        f"(its own eos_token is {own}), or use the tokenizer of this checkpoint"
    )
    if type(end) is not int:
        raise InputError(f"text_config.eos_token_id in config.json is {_shown(end)}, not one whole number: {advice}")
    lost = [(ids, text) for ids, text in zip(tokens, texts, strict=True) if end not in ids]
    if lost and not reads_largest(tower):
        ids, text = lost[0]
        raise InputError(
            f"the text tower reads a text at its end token, {end}, which the tokenizer does not write: {_shown(text)} "
            f"becomes {_ids(ids)}, and {len(lost)} of {len(tokens)} texts lack it; {advice}"
        )

    def read(ids: Sequence[int]) -> Sequence[int]:
        return ids[: 1 + read_position(tower, ids)]

    start = read(tokens[0])
    if any(ids != tokens[0] for ids in tokens) and all(read(ids) == start for ids in tokens):
        raise InputError(
            f"the text tower reads every text at its token {start[-1]}, before any token that differs: "
            f"{_shown(texts[0])} becomes {_ids(tokens[0])}, so that every text would get the same embedding; {advice}"
        )


def _shown(value: object) -> str:
    return sanitize(repr(value), 60)


def _ids(ids: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ids[:8]))}{', ...' if len(ids) > 8 else ''}]"
