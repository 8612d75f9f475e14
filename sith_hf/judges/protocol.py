"""``Judge``: the protocol of every judge."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from sith_hf.decomposition import Decomposition
from sith_hf.gains import Scores


@runtime_checkable
class Judge(Protocol):
    """Scores explained poles 1 to 5 on a topic.

    The scale: 1 nothing of the topic, 2 a part of it, 3 mainly about the topic, 4 for the most part, 5 about nothing
    else. A pole without concepts, or that the judge has no answer for, gets NaN: a judge never guesses.
    """

    def score(self, decomposition: Decomposition, *, progress: bool = False) -> Scores:
        """The scores of every explained pole.

        Args:
            decomposition: the explanations to judge.
            progress: show a bar on stderr if it takes long.

        Raises:
            InputError: the judge cannot score this decomposition.
            HubError: a server refused, failed or could not be reached.
        """
        ...
