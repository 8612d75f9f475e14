"""Judges as a recipe's YAML names them. A token is never among the settings: recipes are shared."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from sith_hf.core.settings import Settings
from sith_hf.decomposition import NEAR


class EmbeddingJudgeSettings(Settings):
    """By embeddings; the default, which needs nothing else (:class:`sith_hf.judges.EmbeddingJudge`)."""

    by: Literal["embeddings"] = "embeddings"
    """By the model's own text tower."""
    topic: str
    """What is asked, in words; for reports only."""
    concepts: tuple[str, ...]
    """What the topic consists of."""
    near: float = Field(default=NEAR, gt=0, le=1)
    """The least cosine of centred embeddings at which a concept counts whole."""


class LanguageModelJudgeSettings(Settings):
    """By a language model (:class:`sith_hf.judges.LanguageModelJudge`)."""

    by: Literal["language-model"]
    """By a chat model on the Hub or on a server."""
    prompt: str = "topic"
    """``topic``, ``place``, ``unsafe``, ``theme``, or a template file."""
    topic: str | None = None
    """What is asked, in words; needed for ``topic`` and for a file."""
    model: str | None = None
    """Its Hub id, or its name at the server of ``base_url``."""
    provider: str | None = None
    """One of the Hub's inference providers; the user's own order when left out."""
    base_url: str | None = None
    """An OpenAI-compatible server instead, such as ``http://localhost:8000/v1``."""
    temperature: float | None = Field(default=0.0, ge=0)
    """Of the answers; the server's own when null."""
    max_tokens: int | None = Field(default=512, ge=1)
    """The longest answer; the server's own limit when null."""
    seed: int | None = None
    """Of the answers, where the server takes one."""
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    """Seconds for one attempt, from the connection to the last byte of the answer."""
    workers: int = Field(default=4, ge=1, le=64)
    """How many questions at once."""
    most_unanswered: float = Field(default=0.2, ge=0, le=1)
    """The largest share of poles without a score that is still a result."""


class SheetJudgeSettings(Settings):
    """By a file (:class:`sith_hf.judges.SheetJudge`)."""

    by: Literal["file"]
    """By scores in a file."""
    path: str
    """A CSV sheet, ``scores.safetensors``, or a folder that holds that."""
    topic: str = "the topic of the sheet"
    """What a sheet's scores say, in words."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """What the file must be."""


def _tag(value: Any) -> str | None:
    by = value.get("by", "embeddings") if isinstance(value, dict) else getattr(value, "by", None)
    return f"tag:{by}" if by in ("embeddings", "language-model", "file") else None


JudgeSettings = Annotated[
    Annotated[EmbeddingJudgeSettings, Tag("tag:embeddings")]
    | Annotated[LanguageModelJudgeSettings, Tag("tag:language-model")]
    | Annotated[SheetJudgeSettings, Tag("tag:file")],
    Discriminator(
        _tag,
        custom_error_type="judge",
        custom_error_message="a judge is a mapping, whose key by is embeddings, language-model or file",
    ),
]
"""One of the three, told apart by ``by``; by embeddings where that is left out."""
