"""Settings of judges in a recipe's YAML. They have no token, because recipes are shared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag

from sith_hf.core.settings import Settings, by_key
from sith_hf.decomposition import NEAR


class EmbeddingJudgeSettings(Settings):
    """Settings of :class:`sith_hf.judges.EmbeddingJudge`, the default."""

    by: Literal["embeddings"] = "embeddings"
    """Judge by the model's own text tower."""
    topic: str
    """The topic in words; for reports only."""
    concepts: tuple[str, ...]
    """The members of the topic."""
    near: float = Field(default=NEAR, gt=0, le=1)
    """The least cosine of centred embeddings at which a concept counts in full."""


class LanguageModelJudgeSettings(Settings):
    """Settings of :class:`sith_hf.judges.LanguageModelJudge`."""

    by: Literal["language-model"]
    """Judge by a chat model on the Hub or on a server."""
    prompt: str = "topic"
    """``topic``, ``place``, ``unsafe``, ``theme``, or a template file."""
    topic: str | None = None
    """The topic in words; needed for ``topic`` and for a file."""
    model: str | None = None
    """The model's Hub id, or its name at ``base_url``."""
    provider: str | None = None
    """One of the Hub's inference providers; the user's own order when null."""
    base_url: str | None = None
    """An OpenAI-compatible server, such as ``http://localhost:8000/v1``, instead of the Hub."""
    temperature: float | None = Field(default=0.0, ge=0)
    """The sampling temperature; the server's default when null."""
    max_tokens: int | None = Field(default=512, ge=1)
    """The longest answer in tokens; the server's limit when null."""
    seed: int | None = None
    """The sampling seed, if the server takes one."""
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    """Seconds for one attempt, from the connection to the last byte of the answer."""
    workers: int = Field(default=4, ge=1, le=64)
    """The number of questions at once."""
    most_unanswered: float = Field(default=0.2, ge=0, le=1)
    """The largest acceptable share of poles without a score."""


class SheetJudgeSettings(Settings):
    """Settings of :class:`sith_hf.judges.SheetJudge`."""

    by: Literal["file"]
    """Read scores from a file."""
    path: str
    """A score CSV, ``scores.safetensors``, or the folder of the latter."""
    topic: str = "the topic of the sheet"
    """The topic of a score CSV, in words."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """The sha256 of the file; another file is refused."""


JudgeSettings = Annotated[
    Annotated[EmbeddingJudgeSettings, Tag("tag:embeddings")]
    | Annotated[LanguageModelJudgeSettings, Tag("tag:language-model")]
    | Annotated[SheetJudgeSettings, Tag("tag:file")],
    by_key("by", ("embeddings", "language-model", "file"), default="embeddings"),
]
"""The settings of any judge; by embeddings if the key ``by`` is left out."""
