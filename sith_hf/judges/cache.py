"""Answers of language models: a cache that a second run reads, and a transcript that people read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sith_hf.files import write_whole

# Larger than any file that is written here.
MAX_BYTES = 2_000_000


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
        """As plain data."""
        return {"model": self.model, "parameters": dict(self.parameters), "prompt": self.prompt}

    @cached_property
    def key(self) -> str:
        """The sha256 of :attr:`data`."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True)
class AnswerCache:
    """Answers in a folder, one file a question, so that parallel and interrupted runs do no harm.

    A file that is damaged, or that holds the answer to another question, counts as missing: the question is asked again
    and the file replaced. It holds the whole answer, because the way it is parsed may change.

    Attributes:
        folder: is made for the first answer; None keeps nothing.
    """

    folder: Path | None

    def get(self, question: Question) -> str | None:
        """Return the known answer, or None."""
        if self.folder is None:
            return None
        path = self._path(question)
        try:
            # A pipe or a device would be read for ever.
            if not path.is_file() or path.stat().st_size > MAX_BYTES:
                return None
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or {**data, "answer": None} != {**question.data, "answer": None}:
            return None
        answer = data["answer"]
        return answer if isinstance(answer, str) else None

    def put(self, question: Question, answer: str) -> None:
        """Keep an answer. Raises OutputError if the folder cannot be written."""
        if self.folder is not None:
            write_whole(self._path(question), _line({**question.data, "answer": answer}))

    def _path(self, question: Question) -> Path:
        assert self.folder is not None
        return self.folder / question.key[:2] / f"{question.key}.json"


def write_transcript(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a transcript as JSON lines, whole or not at all. Raises OutputError."""
    write_whole(path, b"".join(_line(entry) for entry in entries))


def _line(data: Mapping[str, Any]) -> bytes:
    # In ASCII: an answer may hold half of a surrogate pair, or terminal control characters.
    return json.dumps(data, sort_keys=True, ensure_ascii=True).encode("ascii") + b"\n"
