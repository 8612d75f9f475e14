"""``EmbeddingJudge``: compares explanations with a topic's concepts by the model's own text tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.core.validation import finite_number
from sith_hf.decomposition import NEAR, Decomposition
from sith_hf.errors import InputError
from sith_hf.gains import HIGHEST_SCORE, LOWEST_SCORE, Scores
from sith_hf.pursuit import centred

# A concept counts 0 below this part of `near`, and 1 from `near` on.
FAR = 2 / 3


@dataclass(frozen=True)
class EmbeddingJudge:
    """A judge that scores a pole by the part of its explanation that lies on or near a topic's concepts.

    Each concept of an explanation counts by the cosine between its centred embedding and the nearest one of the topic:
    0 up to two thirds of ``near``, 1 from ``near`` on, linear in between. The topic relevance of a pole is the part of
    its explanation's weight that counts, 0 to 1, and::

        score = 1 + 4 * relevance        1: none   2: a quarter   3: one half   4: three quarters   5: all of it

    A score of at least 3 means "mainly about the topic".

    Calibration, on the last two layers of the embedded checkpoint with the words of its world as dictionary. The topic
    is the eight backgrounds without their synonyms; pictures with independent object, colour, background, size and
    peril show which attribute a vector reacts to. ``python -m pytest tests/judges/test_calibration.py -s`` prints:

    - words: a score of at least 3 and "at least half of the weight lies on backgrounds" agree on all 512 poles;
    - pictures: 71 of 256 vectors react mainly to the background (it explains more than half of the variance that the
      attributes explain). A score of at least 3 for the stronger pole agrees with that on 86 % of the vectors (82 %
      balanced over yes and no; 46 % with the same scores in random order, 36 % with colours as topic);
    - the background's part of that variance is 0.13, 0.31, 0.63 and 0.78 on average for scores from 1, 2, 3 and 4 on.

    So a score of 4 or more is much safer than one of 3.

    List the members of a topic ("sea, road, forest"), not only its heading ("background"): a text tower puts a heading
    near other headings. If no concept of the dictionary is near the topic's concepts, every score is 1.

    Attributes:
        topic: the topic in words; for reports only.
        concepts: the members of the topic, at least one.
        embed: ``embed(*concepts, decomposition=...)`` returns the embedding of each concept, ``[P]``, such as
            :meth:`sith_hf.SithEditor.embed`. With None, all concepts must occur in the explanations.
        near: the minimum cosine of centred embeddings at which a concept counts in full, above 0 and at most 1.

    Raises:
        InputError: no topic, no concept, or ``near`` out of range.
    """

    topic: str
    concepts: Sequence[str]
    embed: Callable[..., Mapping[str, Tensor]] | None = None
    near: float = NEAR

    def __post_init__(self) -> None:
        if not isinstance(self.topic, str) or not self.topic.strip():
            raise InputError("name the topic in words, such as topic='places and backgrounds'")
        if isinstance(self.concepts, str) or not self.concepts:
            raise InputError("name the members of the topic with concepts, a list of at least one text")
        if not 0 < finite_number(self.near, "near") <= 1:
            raise InputError(f"near must be a cosine above 0 and at most 1; got {self.near}")

    def score(self, decomposition: Decomposition, *, progress: bool = False) -> Scores:
        """Return the score of every explained pole (see :class:`sith_hf.judges.Judge`).

        Raises:
            InputError: ``embed`` is None and no explanation has one of the concepts.
        """
        if self.embed is not None:
            embedded = [*self.embed(*self.concepts, decomposition=decomposition).values()]
        else:
            embedded = [decomposition.embedding_of(concept) for concept in self.concepts]
        queries = torch.stack([query.float() for query in embedded])
        relevant = topic_relevance(decomposition, queries, self.near)
        value = (LOWEST_SCORE + (HIGHEST_SCORE - LOWEST_SCORE) * relevant).clamp(LOWEST_SCORE, HIGHEST_SCORE)
        return Scores.of(
            decomposition,
            value,
            topic=self.topic,
            judge=f"embeddings of {len(self.concepts)} concepts, near {self.near:g}",
            record={
                "by": "embeddings",
                "concepts": list(self.concepts),
                "embeddings_sha256": tensor_sha256(queries),
                "near": self.near,
                "empty": int(torch.isnan(value).sum()),
            },
        )


def topic_relevance(decomposition: Decomposition, queries: Tensor, near: float = NEAR) -> Tensor:
    """Return the part of each explanation that is about a topic, ``[L, H, R, poles]``, 0 to 1; NaN for an empty one.

    ``queries`` are ``[Q, P]`` embeddings of the topic's concepts, not centred; ``near`` as for :class:`EmbeddingJudge`.
    """
    cosine = (decomposition.atoms @ centred(queries, decomposition.dictionary_mean).T).amax(dim=1)
    # Rounding must not reduce a concept of the topic itself.
    counts = ((cosine + 1e-4 - FAR * near) / ((1 - FAR) * near)).clamp(0, 1)
    counts = torch.cat([counts, torch.zeros(1)])  # index -1: no concept
    total = decomposition.weight.sum(dim=-1)
    part = (decomposition.weight * counts[decomposition.concept]).sum(dim=-1) / total
    return torch.where(total > 0, part.clamp(0, 1), torch.nan)
