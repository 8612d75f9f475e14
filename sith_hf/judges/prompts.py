"""``Prompt``: a question for a language model, from a template of this package or a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from sith_hf.core.escaping import escape_texts
from sith_hf.core.reading import read_text_input
from sith_hf.errors import InputError
from sith_hf.judges.templating import Template, UnusableTemplate, compile_template, fill

# The topic of each shipped prompt, for reports; None for the prompt about any topic, which the user gives.
SHIPPED: dict[str, str | None] = {
    "topic": None,
    "place": "places and backgrounds",
    "unsafe": "unsafe content",
    "theme": "one theme",
}
MAX_BYTES = 50_000

# Characters that could close the delimiters around the texts, or begin a template or a code block.
_MARKS = "<>`{}"


@dataclass(frozen=True)
class Prompt:
    """A question about one explanation, as a jinja template.

    The template gets ``concepts``, a JSON list by descending weight; ``weights``, a JSON list of their weights with two
    decimals; ``weighted_concepts``, a JSON list of pairs, ``[["sea", 0.41], ...]``; and ``topic``, a JSON string. Texts
    are untrusted: hidden characters and marks that could close a delimiter are escaped, so that each stays on one line
    and inside its delimiters. The template may include ``frame.j2`` and ``texts.j2`` of this package. See
    :mod:`sith_hf.judges.templating` for what else it may use.

    Attributes:
        name: the name of the template, for reports.
        source: the template.
        topic: the topic in words.

    Raises:
        InputError: a template that fails or does not show the concepts, or a blank topic.
    """

    name: str
    source: str
    topic: str

    def __post_init__(self) -> None:
        if not self.topic.strip():
            raise InputError(f"the prompt {self.name} needs a topic: name it in words (--topic on the command line)")
        marker = "sith-hf-probe"
        if marker not in self.ask([marker], [0.5]):
            raise InputError(f"the prompt {self.name} shows no concepts: add {{{{ concepts }}}} for the JSON list")

    @classmethod
    def load(cls, name_or_path: str | Path, topic: str | None = None, *, folder: Path | None = None) -> Prompt:
        """Load one of :data:`SHIPPED`, or a template file.

        Args:
            name_or_path: ``topic``, ``place``, ``unsafe``, ``theme``, or a file.
            topic: the topic in words; needed for ``topic`` and for a file.
            folder: the folder that a relative path starts from.
        """
        name = str(name_or_path)
        if name in SHIPPED:
            return cls(name, _part(f"{name}.j2"), topic or SHIPPED[name] or "")
        path = (folder or Path()) / name
        advice = f"name a template file, or one of {', '.join(SHIPPED)}"
        return cls(path.name, read_text_input(path, "the prompt", advice, MAX_BYTES), topic or "")

    @property
    def sha256(self) -> str:
        """The sha256 of the question about an explanation without concepts: template, parts and topic."""
        return hashlib.sha256(self.ask([], []).encode()).hexdigest()

    def ask(self, concepts: Sequence[str], weights: Sequence[float]) -> str:
        """Return the question about one explanation.

        Args:
            concepts: the texts, by descending weight.
            weights: the weight of each.

        Raises:
            InputError: the template cannot be filled in.
        """
        numbers = [f"{weight:.2f}" for weight in weights]
        texts = [escape_texts([text], _MARKS)[1:-1] for text in concepts]
        values = {
            "concepts": escape_texts(concepts, _MARKS),
            "weights": f"[{', '.join(numbers)}]",
            "weighted_concepts": f"[{', '.join(f'[{t}, {n}]' for t, n in zip(texts, numbers, strict=True))}]",
            "topic": escape_texts([self.topic], _MARKS)[1:-1],
        }
        try:
            return fill(_template(self.source), values).strip()
        except UnusableTemplate as error:
            raise InputError(
                f"the prompt {self.name} cannot be filled in: {error}; it may use {', '.join(values)}"
            ) from None


def _part(name: str) -> str:
    return (files("sith_hf.judges") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=8)
def _template(source: str) -> Template:
    return compile_template(source, {name: _part(name) for name in ("frame.j2", "texts.j2")})
