"""The one form of an answer that is a score."""

from __future__ import annotations

import re

# A longer answer is no score; the transcript holds its beginning.
MAX_CHARACTERS = 100_000

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_SCORE = re.compile(r"(?:score:[ \t]*)?([1-5])", re.IGNORECASE)


def parse(answer: str) -> int | None:
    """Return the score of an answer, or None.

    The grammar: ``[thought] ["Score:"] digit``. The thought is one block ``<think>...</think>`` at the very beginning,
    as reasoning models write it; ``Score:`` may be in any case; the digit is one of 1 to 5; there is nothing else but
    white space. ``4/5``, ``**4**``, ``4.5``, ``between 3 and 4`` and ``Score: 4 because`` are no scores: their meaning
    would be a guess.
    """
    if len(answer) > MAX_CHARACTERS:
        return None
    thought = _THOUGHT.match(answer)
    found = _SCORE.fullmatch(answer[thought.end() if thought else 0 :].strip())
    return int(found[1]) if found else None
