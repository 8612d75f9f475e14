"""The edits of a recipe: one group of settings for each rule by which gains are chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from sith_hf.core.settings import Settings
from sith_hf.decomposition import NEAR
from sith_hf.gains import SHARE_THRESHOLD
from sith_hf.judges import JudgeSettings


class _Step(Settings):
    layers: tuple[int, ...] | None = None
    """Choose only among these layers; negative ones count from the last. All that were decomposed when null."""

    heads: tuple[int, ...] | None = None
    """Choose only among these heads; all when null."""


class ShareEdit(_Step):
    """One gain for the vectors that speak of named concepts (:func:`sith_hf.gains.by_concepts`)."""

    rule: Literal["share"] = "share"
    """Vectors whose explanation lies on the concepts with at least a share of its weight."""

    concepts: tuple[str, ...]
    """What the vectors speak of; taken together."""

    gain: float = 0.0
    """0 removes, 1 leaves, above 1 amplifies, -1 inverts."""

    threshold: float = SHARE_THRESHOLD
    """The least share, above 0 and at most 1."""

    near: float = NEAR
    """The least cosine of centred embeddings that counts as near a concept."""

    both_poles: bool = False
    """Judge a vector by the mean over its poles, not by the stronger one."""


class VectorsEdit(_Step):
    """One gain for vectors named outright (:func:`sith_hf.gains.by_name`)."""

    rule: Literal["vectors"]
    """Every combination of the given layers, heads and vectors."""

    gain: float
    """0 removes, 1 leaves, above 1 amplifies, -1 inverts."""

    vectors: tuple[int, ...] | None = None
    """Numbers of vectors in their heads, the strongest is 0; all when null."""


class _Judged(_Step):
    judge: JudgeSettings
    """Who scores each explained pole from 1 to 5 on the topic."""

    both_poles: bool = False
    """Score a vector by the mean over its poles, not by the higher one."""

    keep: JudgeSettings | None = None
    """Who scores each pole on a topic to keep: vectors whose other pole speaks of it are spared."""

    keep_threshold: float = 3.0
    """The least score of the other pole on the topic to keep that spares a vector."""

    keep_gain: float | None = None
    """The gain of such a vector instead of the rule's, such as 0.5 to damp it; left as it is when null."""


class ThresholdEdit(_Judged):
    """One gain from a score on (METHOD.md sec. 6, spurious features)."""

    rule: Literal["threshold"]
    """Vectors with at least a score."""

    threshold: float = 3.0
    """The least score, 1 to 5."""

    gain: float = 0.0
    """0 removes, 1 leaves, above 1 amplifies, -1 inverts."""


class ThreeWayEdit(_Judged):
    """Doubtful vectors inverted, clear ones removed (METHOD.md sec. 6, unsafe content)."""

    rule: Literal["three-way"]
    """Middling scores are inverted, high ones removed."""

    invert_from: float = 3.0
    """The least score that gets the gain -1."""

    remove_from: float = 4.0
    """The least score that gets the gain 0."""


class RelevanceEdit(_Step):
    """Gains by relevance to a classification task (METHOD.md sec. 6, classification)."""

    rule: Literal["relevance"]
    """Each vector's relevance to the task plus an offset, between floor and ceiling."""

    classes: tuple[str, ...]
    """The names of the classes."""

    template: str | None = None
    """The prompt that class names are put into, such as "a photo of a {}"."""

    sparsity: int = 10
    """How many concepts of the dictionary stand for each class."""

    coherence_weight: float = 0.3
    """The lambda of COMP that selects them."""

    floor: float = 0.8
    """The least gain."""

    ceiling: float | None = None
    """The largest gain; none when null."""

    offset: float | Literal["level"] = 0.3
    """What is added to the relevance; "level" adds what gives the vector of middling relevance the gain 1."""

    leave_out: tuple[str, ...] | None = None
    """Concepts of the dictionary that cannot stand for a class; the class names when null."""


class BudgetEdit(ThresholdEdit):
    """The same, weakened until the estimated drift of embeddings is within a limit (:func:`sith_hf.gains.budgeted`)."""

    rule: Literal["budget"]  # type: ignore[assignment]
    """Vectors with at least a score, as much of them as the limit allows."""

    limit: float
    """How far image embeddings may move: a mean of 1 - cosine, estimated from the weights alone."""

    whole: bool = False
    """Take vectors one by one, the purest first, rather than all of them in part."""


def _rule(step: Any) -> Any:
    rule = step.get("rule", "share") if isinstance(step, dict) else getattr(step, "rule", None)
    return f"tag:{rule}"


EditStep = Annotated[
    Annotated[ShareEdit, Tag("tag:share")]
    | Annotated[VectorsEdit, Tag("tag:vectors")]
    | Annotated[ThresholdEdit, Tag("tag:threshold")]
    | Annotated[ThreeWayEdit, Tag("tag:three-way")]
    | Annotated[RelevanceEdit, Tag("tag:relevance")]
    | Annotated[BudgetEdit, Tag("tag:budget")],
    Discriminator(
        _rule,
        custom_error_type="unknown_rule",
        custom_error_message="rule is one of share, vectors, threshold, three-way, relevance and budget",
    ),
]
