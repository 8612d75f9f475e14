"""The edits of a recipe: keys and defaults of each rule."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Tag

from sith_hf.core.settings import NumberChoice, Settings, by_key
from sith_hf.decomposition import NEAR
from sith_hf.gains import SHARE_THRESHOLD
from sith_hf.judges import JudgeSettings


class _Step(Settings):
    tower: Literal["vision", "text"] = "vision"
    """The tower whose vectors are chosen."""
    layers: NumberChoice | None = None
    """Choose only among these layers: numbers, negative ones from the last, or a text such as "-4:", "8-11" or
    "last4". All decomposed layers when null."""
    heads: NumberChoice | None = None
    """Choose only among these heads, likewise; all when null."""


class ShareEdit(_Step):
    """One gain for the vectors that are about some concepts (:func:`sith_hf.gains.by_concepts`)."""

    rule: Literal["share"] = "share"
    """Choose vectors by the share of their explanation's weight that lies on the concepts."""
    concepts: tuple[str, ...]
    """The concepts; their shares add up."""
    gain: float = 0.0
    """0 removes, 1 leaves, above 1 amplifies, -1 inverts."""
    threshold: float = SHARE_THRESHOLD
    """The minimum share, above 0 and at most 1."""
    near: float = NEAR
    """The minimum cosine of centred embeddings that counts as similar."""
    both_poles: bool = False
    """Judge a vector by the mean over its poles, not by the stronger one."""


class WordsEdit(_Step):
    """One gain for the vectors that carry any of some words (:func:`sith_hf.gains.by_word`)."""

    rule: Literal["words"]
    """Choose vectors by the cosine of what they write with each word."""
    concepts: tuple[str, ...]
    """The words, each chosen by itself."""
    gain: float = 0.0
    """0 removes, 1 leaves, above 1 amplifies, -1 inverts."""
    top: int | None = None
    """The number of vectors for each word, the strongest; those beyond chance when null."""


class VectorsEdit(_Step):
    """One gain for vectors given by number (:func:`sith_hf.gains.by_name`)."""

    rule: Literal["vectors"]
    """Choose every combination of the given layers, heads and vectors."""
    gain: float
    """0 removes, 1 leaves, above 1 amplifies, -1 inverts."""
    vectors: NumberChoice | None = None
    """Numbers of vectors in their heads, likewise, 0 for the strongest; all when null."""


class _Judged(_Step):
    judge: JudgeSettings
    """The judge that scores each explained pole from 1 to 5 on the topic."""
    both_poles: bool = False
    """Judge a vector by the mean over its poles, not by the higher one."""
    keep: JudgeSettings | None = None
    """The judge of a topic to keep: a vector whose other pole is about it is protected."""
    keep_threshold: float = 3.0
    """The minimum score of the other pole that protects a vector."""
    keep_gain: float | None = None
    """The gain of a protected vector, such as 0.5 to damp it; unchanged when null."""


class ThresholdEdit(_Judged):
    """One gain for vectors with at least a score (Method, sec. 6, spurious features)."""

    rule: Literal["threshold"]
    """Choose vectors with at least a score."""
    threshold: float = 3.0
    """The minimum score, 1 to 5."""
    gain: float = 0.0
    """0 removes, 1 leaves, above 1 amplifies, -1 inverts."""


class ThreeWayEdit(_Judged):
    """Vectors with a middling score inverted, with a high score removed (Method, sec. 6, unsafe content)."""

    rule: Literal["three-way"]
    """Invert middling scores, remove high ones."""
    invert_from: float = 3.0
    """The minimum score for the gain -1."""
    remove_from: float = 4.0
    """The minimum score for the gain 0."""


class RelevanceEdit(_Step):
    """Gains by relevance to a classification task (Method, sec. 6, classification)."""

    rule: Literal["relevance"]
    """Set each gain to the vector's relevance plus an offset, between floor and ceiling."""
    classes: tuple[str, ...]
    """The names of the classes."""
    template: str | None = None
    """The prompt around each class name, such as "a photo of a {}"."""
    sparsity: int = 10
    """The number of concepts of the dictionary that represent each class."""
    coherence_weight: float = 0.3
    """The lambda of COMP that selects them."""
    floor: float = 0.8
    """The minimum gain."""
    ceiling: float | None = None
    """The maximum gain; none when null."""
    offset: float | Literal["level"] = 0.3
    """The number added to the relevance; "level" gives the vector of median relevance the gain 1."""
    leave_out: tuple[str, ...] | None = None
    """Concepts of the dictionary, with the same case, that cannot represent a class; the class names when null."""


class BudgetEdit(ThresholdEdit):
    """A threshold edit, weakened until the estimated drift is within a limit (:func:`sith_hf.gains.budgeted`)."""

    rule: Literal["budget"]  # type: ignore[assignment]
    """Choose vectors with at least a score, as much of each as the limit allows."""
    limit: float
    """The limit on how far embeddings of the tower move: a mean of 1 - cosine, estimated from the weights alone."""
    whole: bool = False
    """Take vectors one by one, the purest first, instead of all in part."""


EditStep = Annotated[
    Annotated[ShareEdit, Tag("tag:share")]
    | Annotated[WordsEdit, Tag("tag:words")]
    | Annotated[VectorsEdit, Tag("tag:vectors")]
    | Annotated[ThresholdEdit, Tag("tag:threshold")]
    | Annotated[ThreeWayEdit, Tag("tag:three-way")]
    | Annotated[RelevanceEdit, Tag("tag:relevance")]
    | Annotated[BudgetEdit, Tag("tag:budget")],
    by_key("rule", ("share", "words", "vectors", "threshold", "three-way", "relevance", "budget"), default="share"),
]
