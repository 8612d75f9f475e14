"""Answers of language models: their scores, a cache for later runs, and a transcript for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sith_hf.core.reading import read_bytes
from sith_hf.files import sweep, write_whole
from sith_hf.judges.grammar import parse

# Larger than any file of the cache.
MAX_BYTES = 2_000_000


@dataclass(frozen=True)
class Answer:
    """An answer of a language model.

    Attributes:
        text: the answer, without secrets; empty if there is none.
        fault: why it may hold no score although it arrived, such as a cut-off answer; None for a whole one.
    """

    text: str
    fault: str | None = None

    @property
    def score(self) -> int | None:
        """The score, 1 to 5; None for an answer without exactly one."""
        return parse(self.text)


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

    def remove_unfinished(self) -> None:
        """Remove what processes that were killed while they wrote left over."""
        if self.folder is not None and self.folder.is_dir():
            for place in self.folder.iterdir():
                sweep(place)

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
