"""Answers of language models: the form of a score, a cache for later runs, and a transcript for people."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sith_hf.core.reading import read_bytes
from sith_hf.files import write_whole

# A longer answer is no score; the transcript has its beginning.
MAX_CHARACTERS = 100_000

# Larger than any file of the cache.
MAX_BYTES = 2_000_000

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_SCORE = re.compile(r"(?:score:[ \t]*)?([1-5])", re.IGNORECASE)


def parse(answer: str) -> int | None:
    """Return the score of an answer, or None.

    The grammar: ``[thought] ["Score:"] digit``. The thought is one block ``<think>...</think>`` at the beginning, as
    reasoning models write it; ``Score:`` may be in any case; the digit is 1 to 5; nothing else but white space is
    allowed. ``4/5``, ``**4**``, ``4.5``, ``between 3 and 4`` and ``Score: 4 because`` are not scores: their meaning
    would be a guess.
    """
    if len(answer) > MAX_CHARACTERS:
        return None
    thought = _THOUGHT.match(answer)
    found = _SCORE.fullmatch(answer[thought.end() if thought else 0 :].strip())
    return int(found[1]) if found else None


@dataclass(frozen=True, eq=False)
class Question:
    """One question to one model.

    Attributes:
        model: the model, and the server if it has a URL.
        parameters: more keys of the request, as plain data.
        prompt: the text.
    """

    model: str
    parameters: Mapping[str, Any]
    prompt: str

    @property
    def data(self) -> dict[str, Any]:
        """The question as plain data."""
        return {"model": self.model, "parameters": dict(self.parameters), "prompt": self.prompt}

    @cached_property
    def key(self) -> str:
        """The sha256 of :attr:`data`."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True)
class AnswerCache:
    """Whole answers in a folder, one file per question, safe for parallel and interrupted runs.

    A file that is damaged or belongs to another question counts as missing: the question is asked again and the file
    replaced.

    Attributes:
        folder: created with the first answer; None keeps nothing.
    """

    folder: Path | None

    def get(self, question: Question) -> str | None:
        """Return the cached answer, or None."""
        if self.folder is None:
            return None
        path = self._path(self.folder, question)
        try:
            data = json.loads(read_bytes(path, MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or {**data, "answer": None} != {**question.data, "answer": None}:
            return None
        answer = data["answer"]
        return answer if isinstance(answer, str) else None

    def put(self, question: Question, answer: str) -> None:
        """Keep an answer. Raises OutputError if the folder cannot be written."""
        if self.folder is not None:
            write_whole(self._path(self.folder, question), _line({**question.data, "answer": answer}))

    @staticmethod
    def _path(folder: Path, question: Question) -> Path:
        return folder / question.key[:2] / f"{question.key}.json"


def write_transcript(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a transcript as JSON lines, atomically. Raises OutputError."""
    write_whole(path, b"".join(_line(entry) for entry in entries))


def _line(data: Mapping[str, Any]) -> bytes:
    # Write ASCII, because an answer may contain lone surrogates or terminal control characters.
    return json.dumps(data, sort_keys=True, ensure_ascii=True).encode("ascii") + b"\n"
