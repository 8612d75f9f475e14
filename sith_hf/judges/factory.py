"""From a recipe's settings to a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from sith_hf.judges.client import ChatServer
from sith_hf.judges.embeddings import EmbeddingJudge
from sith_hf.judges.language_model import LanguageModelJudge
from sith_hf.judges.prompts import Prompt
from sith_hf.judges.protocol import Judge
from sith_hf.judges.settings import EmbeddingJudgeSettings, JudgeSettings, SheetJudgeSettings
from sith_hf.judges.sheet import SheetJudge

CACHE, TRANSCRIPT = "judge-cache", "judge-transcript.jsonl"


def make_judge(
    settings: JudgeSettings,
    embed: Callable[..., Mapping[str, Tensor]] | None,
    *,
    folder: Path,
    cache: Path | None = None,
    transcript: Path | None = None,
    token: str | None = None,
) -> Judge:
    """The judge that ``settings`` describe.

    Args:
        settings: one of :data:`sith_hf.judges.JudgeSettings`.
        embed: embeds concepts that no explanation has (see :class:`EmbeddingJudge`); None if there are none.
        folder: where relative paths of the settings begin.
        cache: a folder for a language model's answers; ``judge-cache`` in ``folder`` when None.
        transcript: a file for its questions and answers; ``judge-transcript.jsonl`` in ``folder`` when None.
        token: of the Hub; the usual places when None. A server named by ``base_url`` never gets it, because settings
            may come with another person's recipe (see :class:`sith_hf.judges.client.ChatServer`).

    Raises:
        InputError: settings that do not go together, or a prompt that cannot be read.
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
        cache=folder / CACHE if cache is None else cache,
        transcript=folder / TRANSCRIPT if transcript is None else transcript,
        workers=settings.workers,
        most_unanswered=settings.most_unanswered,
    )
