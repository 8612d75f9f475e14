"""``Judge``, the protocol of every judge; settings of judges in YAML; and ``make_judge``, from settings to a judge.

Settings have no token, because recipes are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field, Tag, model_validator
from torch import Tensor

from sith_hf.core.settings import Settings, by_key
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.gains import Scores
from sith_hf.judges.client import TIMEOUT, ChatServer
from sith_hf.judges.embeddings import EmbeddingJudge
from sith_hf.judges.language_model import LanguageModelJudge
from sith_hf.judges.prompts import Prompt
from sith_hf.judges.secrets import check_named
from sith_hf.judges.sheet import SheetJudge


@runtime_checkable
class Judge(Protocol):
    """The protocol of judges, which score explained poles on a topic from 1 to 5.

    The scale: 1 not about the topic, 2 partly, 3 mainly, 4 for the most part, 5 about nothing else. A pole without
    concepts, or without a usable answer, gets NaN: a judge never guesses.
    """

    def score(self, decomposition: Decomposition, *, progress: bool = False) -> Scores:
        """Return the score of every explained pole.

        Args:
            decomposition: the explanations to judge.
            progress: show a bar on stderr if it takes long.

        Raises:
            InputError: the judge cannot score this decomposition.
            HubError: a server refused, failed or could not be reached.
        """
        ...


class EmbeddingJudgeSettings(Settings):
    """Settings of :class:`sith_hf.judges.EmbeddingJudge`, the default."""

    by: Literal["embeddings"] = "embeddings"
    """Judge by the model's own text tower."""
    topic: str
    """The topic in words; for reports only."""
    concepts: tuple[str, ...]
    """The members of the topic."""
    near: float = Field(default=NEAR, gt=0, le=1)
    """The minimum cosine of centred embeddings at which a concept counts in full."""


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
    """The sampling temperature; the server's default when null, or with reasoning_effort."""
    max_tokens: int | None = Field(default=2048, ge=1)
    """The longest answer in tokens, reasoning included; the server's limit when null, or with reasoning_effort."""
    reasoning_effort: str | None = Field(default=None, pattern="^[a-z]{1,20}$")
    """How long the model thinks, such as low, medium or high; passed on if the server takes it."""
    seed: int | None = None
    """The sampling seed, if the server takes one."""
    timeout: float = Field(default=TIMEOUT, gt=0, le=86_400)
    """Seconds for one attempt, from the connection to the last byte of the answer."""
    workers: int = Field(default=4, ge=1, le=64)
    """The number of questions at once."""
    most_unanswered: float = Field(default=0.2, ge=0, le=1)
    """The largest acceptable share of poles without a score."""

    @model_validator(mode="before")
    @classmethod
    def _of_reasoning(cls, data: Any) -> Any:
        # Models that take an effort refuse other temperatures, and a limit would cut off their thoughts.
        if isinstance(data, Mapping) and data.get("reasoning_effort") is not None:
            return {"temperature": None, "max_tokens": None, **data}
        return data


class SheetJudgeSettings(Settings):
    """Settings of :class:`sith_hf.judges.SheetJudge`."""

    by: Literal["file"]
    """Read scores from a file."""
    path: str
    """A score CSV, ``scores.safetensors``, or the folder of the latter."""
    topic: str = "the topic of the score CSV"
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


def check_judge_server(settings: JudgeSettings, servers: Iterable[str] = ()) -> None:
    """Refuse a server that the settings name and the user does not.

    Args:
        settings: of a judge, perhaps from another person's recipe.
        servers: the servers that the user named, beside the one in ``SITH_HF_JUDGE_URL``. Only they may get the token
            and the concepts. Without a token in ``SITH_HF_JUDGE_TOKEN``, a server on this machine needs no name.

    Raises:
        InputError: the user did not name the server.
    """
    if isinstance(settings, LanguageModelJudgeSettings) and settings.base_url is not None:
        check_named(settings.base_url, servers)


def make_judge(
    settings: JudgeSettings,
    embed: Callable[..., Mapping[str, Tensor]] | None,
    *,
    folder: Path,
    cache: Path | None = None,
    transcript: Path | None = None,
    token: str | None = None,
    servers: Iterable[str] = (),
) -> Judge:
    """Make the judge that ``settings`` describe.

    Args:
        settings: one of :data:`sith_hf.judges.JudgeSettings`.
        embed: embeds concepts that no explanation has (see :class:`EmbeddingJudge`); None if there are none.
        folder: the folder that relative paths in the settings start from.
        cache, transcript: as for :class:`LanguageModelJudge`.
        token: a token for the Hub; the usual places when None. A server given by ``base_url`` never gets it, because
            settings may come with another person's recipe (see :class:`sith_hf.judges.client.ChatServer`).
        servers: the servers that the user named, which may get the token in ``SITH_HF_JUDGE_TOKEN`` (see
            :func:`check_judge_server`).

    Raises:
        InputError: settings that contradict each other, a prompt that cannot be read, or a server that the user did
            not name.
    """
    check_judge_server(settings, servers)
    if isinstance(settings, EmbeddingJudgeSettings):
        return EmbeddingJudge(settings.topic, settings.concepts, embed, settings.near)
    if isinstance(settings, SheetJudgeSettings):
        return SheetJudge(folder / settings.path, settings.topic, settings.sha256)
    names = ("temperature", "max_tokens", "reasoning_effort", "seed")
    parameters = {name: getattr(settings, name) for name in names}
    return LanguageModelJudge(
        prompt=Prompt.load(settings.prompt, settings.topic, folder=folder),
        server=ChatServer(
            model=settings.model,
            provider=settings.provider,
            base_url=settings.base_url,
            parameters={name: value for name, value in parameters.items() if value is not None},
            timeout=settings.timeout,
            token=token if settings.base_url is None else None,
        ),
        cache=cache,
        transcript=transcript,
        workers=settings.workers,
        most_unanswered=settings.most_unanswered,
    )
