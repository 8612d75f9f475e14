"""``Judge``, the protocol of every judge, and ``make_judge``: from settings to a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from sith_hf.decomposition import Decomposition
from sith_hf.gains import Scores
from sith_hf.judges.client import ChatServer
from sith_hf.judges.embeddings import EmbeddingJudge
from sith_hf.judges.language_model import LanguageModelJudge
from sith_hf.judges.prompts import Prompt
from sith_hf.judges.settings import EmbeddingJudgeSettings, JudgeSettings, SheetJudgeSettings
from sith_hf.judges.sheet import SheetJudge


@runtime_checkable
class Judge(Protocol):
    """A judge scores explained poles on a topic, from 1 to 5.

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


def make_judge(
    settings: JudgeSettings,
    embed: Callable[..., Mapping[str, Tensor]] | None,
    *,
    folder: Path,
    cache: Path | None = None,
    transcript: Path | None = None,
    token: str | None = None,
) -> Judge:
    """Make the judge that ``settings`` describe.

    Args:
        settings: one of :data:`sith_hf.judges.JudgeSettings`.
        embed: embeds concepts that no explanation has (see :class:`EmbeddingJudge`); None if there are none.
        folder: the folder that relative paths in the settings start from.
        cache, transcript: as for :class:`LanguageModelJudge`.
        token: a token for the Hub; the usual places when None. A server given by ``base_url`` never gets it, because
            settings may come with another person's recipe (see :class:`sith_hf.judges.client.ChatServer`).

    Raises:
        InputError: settings that contradict each other, or a prompt that cannot be read.
    """
    if isinstance(settings, EmbeddingJudgeSettings):
        return EmbeddingJudge(settings.topic, settings.concepts, embed, settings.near)
    if isinstance(settings, SheetJudgeSettings):
        return SheetJudge(folder / settings.path, settings.topic, settings.sha256)
    parameters = {"temperature": settings.temperature, "max_tokens": settings.max_tokens, "seed": settings.seed}
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
