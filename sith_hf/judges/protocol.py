"""What every judge does."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from sith_hf.decomposition import Decomposition
from sith_hf.gains import Scores


@runtime_checkable
class Judge(Protocol):
    """Scores explained poles 1 to 5 on a topic.

    The scale: 1 nothing of the topic, 2 a part of it, 3 mainly about the topic, 4 for the most part, 5 about nothing
    else. A judge leaves NaN where it has no answer, and never guesses one. A pole without concepts has no score.
    """

    def score(self, decomposition: Decomposition, *, progress: bool = False) -> Scores:
        """The scores of every explained pole.

        Args:
            decomposition: what to judge.
            progress: show a bar on stderr, where it takes long.

        Raises:
            InputError: the judge cannot judge this.
            HubError: a server that it asks refused, failed or could not be reached.
        """
        ...
