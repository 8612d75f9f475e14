"""``LanguageModelJudge``: asks a language model about each explanation and keeps its answers."""

from __future__ import annotations

import asyncio
import functools
import math
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sith_hf.core.escaping import sanitize
from sith_hf.core.validation import finite_number, whole_number
from sith_hf.decomposition import Decomposition, Explanation
from sith_hf.errors import HubError, InputError
from sith_hf.gains import Scores
from sith_hf.judges.answers import Answer, AnswerCache, Question, write_transcript
from sith_hf.judges.client import ChatServer, Unanswered
from sith_hf.judges.event_loop import run
from sith_hf.judges.prompts import Prompt

MOST_WORKERS = 64

# Stop after this many questions in a row without an answer.
FAILURES_IN_A_ROW = 5
# Stop, to save costs, if none of this many first answers is a score.
EARLY = 20

_FORM = "A score is one whole number from 1 to 5, such as 'Score: 4', after any reasoning"


@dataclass(frozen=True)
class LanguageModelJudge:
    """A judge that scores a pole by a language model's answer to a question about its concepts.

    Poles with the same question share one answer. Only an answer with exactly one score by
    :mod:`sith_hf.judges.grammar` counts. Any other gives NaN, counts in ``record`` as ``unparsed``, and is shown; a
    question without an answer after every attempt counts as ``failed``. Answers with a score are kept as they arrive:
    after an interruption, the next run asks only the other questions. A question is kept by its whole text, so a
    changed template asks anew, and its scores may differ.

    Attributes:
        prompt: the question.
        server: the language model.
        cache: a folder for answers with a score; None keeps none.
        transcript: a file for questions and answers, JSON lines, written at the end, also of a failed or interrupted
            run; None writes none. It contains no token.
        workers: the number of questions at once, 1 to 64.
        most_unanswered: the largest acceptable share of poles without a score, 0 to 1.
        wait: waits for some seconds before another attempt.

    Raises:
        InputError: a value out of range.
    """

    prompt: Prompt
    server: ChatServer
    cache: Path | None = None
    transcript: Path | None = None
    workers: int = 4
    most_unanswered: float = 0.2
    wait: Callable[[float], Awaitable[object]] = field(default=asyncio.sleep, repr=False)

    def __post_init__(self) -> None:
        whole_number(self.workers, "workers", least=1, most=MOST_WORKERS)
        if not 0 <= finite_number(self.most_unanswered, "most_unanswered, a share,") <= 1:
            raise InputError(f"most_unanswered must be a share from 0 to 1; got {self.most_unanswered}")

    def score(self, decomposition: Decomposition, *, progress: bool = False) -> Scores:
        """Return the score of every explained pole (see :class:`sith_hf.judges.Judge`).

        Raises:
            HubError: the server refused, could not be reached, or left too many questions unanswered.
            InputError: too many answers are not scores.
        """
        explanations = decomposition.explanations()
        ask = functools.cache(self.prompt.ask)
        by_prompt: dict[str, list[int]] = {}
        for number, item in enumerate(explanations):
            if item.concepts:
                texts, weights = zip(*item.concepts, strict=True)
                by_prompt.setdefault(ask(texts, weights), []).append(number)
        places = {Question(self.server.name, self.server.parameters, p): numbers for p, numbers in by_prompt.items()}

        answers = AnswerCache(self.cache)
        answers.remove_unfinished()
        # An earlier release also kept answers without a score.
        kept = {q: Answer(text) for q in places if (text := answers.get(q)) is not None}
        found = {question: answer for question, answer in kept.items() if answer.score is not None}
        open_questions = [q for q in places if q not in found]
        known = len(found)
        faults: dict[Question, str] = {}
        try:
            if open_questions:
                run(self._ask(open_questions, answers, found, faults, progress))
        finally:
            if self.transcript is not None:
                write_transcript(self.transcript, _entries(explanations, places, found, faults))

        value = torch.full((len(explanations),), math.nan)
        scores = {question: answer.score for question, answer in found.items()}
        for question, score in scores.items():
            value[places[question]] = math.nan if score is None else score
        record = {
            "by": "language-model",
            "model": self.server.name,
            "parameters": dict(self.server.parameters),
            "prompt": self.prompt.name,
            "prompt_sha256": self.prompt.sha256,
            "poles": len(explanations),
            "empty": sum(not item.concepts for item in explanations),
            "questions": len(places),
            "unparsed": sum(len(places[question]) for question, score in scores.items() if score is None),
            "failed": sum(len(numbers) for question, numbers in places.items() if question not in found),
        }
        self._check(record, found, faults)
        if progress and record["unparsed"]:
            tqdm.write(
                f"{record['unparsed']} of {record['poles']} poles got no score: {_without_score(found)}",
                file=sys.stderr,
            )
        return Scores.of(
            decomposition,
            value.reshape(decomposition.fidelity.shape),
            topic=self.prompt.topic,
            judge=f"{self.server.name}, prompt {self.prompt.name}",
            record=record,
            run={"asked": len(open_questions), "cached": known},
        )

    async def _ask(
        self,
        questions: Sequence[Question],
        answers: AnswerCache,
        found: dict[Question, Answer],
        faults: dict[Question, str],
        progress: bool,
    ) -> None:
        """Ask, filling ``found`` and ``faults``. Each answer is kept before its worker asks the next question."""
        waiting = iter(questions)
        in_a_row = answered = 0
        # If an earlier run got scores, the remaining questions may be those without one.
        parsed = len(found)
        reported = False

        def report(line: str) -> None:
            nonlocal reported
            if progress and not reported:
                tqdm.write(line, file=sys.stderr)
            reported = True

        async def work(session: Any) -> None:
            nonlocal in_a_row, answered, parsed
            for question in waiting:
                try:
                    answer = await self.server.ask(question.prompt, session, self.wait, report, connected=answered > 0)
                except Unanswered as error:
                    faults[question] = str(error)
                    in_a_row += 1
                    if in_a_row >= FAILURES_IN_A_ROW:
                        raise HubError(
                            f"{in_a_row} questions in a row got no answer, the last: {error}. {self._advice(found)}"
                        ) from None
                else:
                    found[question] = answer
                    if scored := answer.score is not None:
                        answers.put(question, answer.text)
                    in_a_row, answered, parsed = 0, answered + 1, parsed + scored
                    if answered == EARLY < len(questions) and not parsed:
                        raise InputError(
                            f"none of the first {EARLY} answers is a score; {_without_score({question: answer})}. "
                            f"{_FORM}. {self._advice(found)}"
                        )
                bar.update()

        with tqdm(total=len(questions), desc="asking the judge", unit="question", disable=not progress) as bar:
            try:
                async with self.server.session() as session, asyncio.TaskGroup() as group:
                    for _ in range(min(self.workers, len(questions))):
                        group.create_task(work(session))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

    def _check(
        self, record: Mapping[str, Any], found: Mapping[Question, Answer], faults: Mapping[Question, str]
    ) -> None:
        advice = self._advice(found)
        judged, failed, unparsed = record["poles"] - record["empty"], record["failed"], record["unparsed"]
        limit = self.most_unanswered * judged
        if failed > limit:
            raise HubError(f"{failed} of {judged} poles got no answer; the last: {[*faults.values()][-1]}. {advice}")
        if failed + unparsed > limit:
            raise InputError(
                f"{unparsed} of {judged} poles got an answer that is no score, and {failed} none; "
                f"{_without_score(found)}. {_FORM}. {advice}"
            )

    def _advice(self, found: Mapping[Question, Answer]) -> str:
        advice = "Try again, or use another model."
        if any(answer.fault is not None and "max_tokens" in answer.fault for answer in list(found.values())):
            advice = (
                "Raise max_tokens (--max-tokens), lower reasoning_effort (--reasoning-effort), or use another model."
            )
        parsed = sum(answer.score is not None for answer in list(found.values()))
        if parsed and self.cache is not None:
            advice += f" {parsed} answers with a score are kept in {self.cache}; another run asks only the rest."
        return advice if self.transcript is None else f"{advice} The answers are in {self.transcript}."


def _without_score(found: Mapping[Question, Answer]) -> str:
    """Return, in words, the last answer without a score."""
    last = [answer for answer in found.values() if answer.score is None][-1]
    end = last.text.rstrip()[-80:]
    return f"an answer such as {sanitize(end)!r}" + (f" ({last.fault})" if last.fault else "")


def _entries(
    explanations: Sequence[Explanation],
    places: Mapping[Question, Sequence[int]],
    found: Mapping[Question, Answer],
    faults: Mapping[Question, str],
) -> list[dict[str, Any]]:
    """Return the lines of the transcript, in the order of the explanations."""
    return [
        {
            **question.data,
            "key": question.key,
            "poles": [[e.layer, e.head, e.vector, e.pole] for e in map(explanations.__getitem__, numbers)],
            "answer": found[question].text if question in found else None,
            "score": found[question].score if question in found else None,
            "fault": found[question].fault if question in found else faults[question],
        }
        for question, numbers in places.items()
        if question in found or question in faults
    ]
