"""Gains from scores: a threshold, and the three-way rule (Method, sec. 6).

A vector writes both of its poles, so an edit always changes both. The score of a vector is that of its highest pole,
ignoring poles without a score, or the mean over its poles with ``both_poles``, which needs all scores. A vector without
a score is never chosen; ``Gains.unscored`` lists it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.core.validation import finite_number
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import ALL, Direction, Gains, Selection, VectorKey, check_gain, direction_of
from sith_hf.gains.scores import HIGHEST_SCORE, LOWEST_SCORE, Scores

# "Mainly about it" on the scale of the judges, and the paper's own threshold.
SCORE_THRESHOLD = 3.0

# Judges compute in float32: rounding must not keep a score below the limit that it reaches.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Keep:
    """A topic to protect from an edit.

    A vector is protected if its other pole, the one that is not about the edited topic, has at least ``threshold`` on
    this topic; ``Gains.protected`` has the reason. A pole without a score on this topic does not protect the vector;
    the reason for its gain then mentions it.

    Attributes:
        scores: scores on the topic to keep.
        threshold: the minimum score of the other pole that protects a vector.
        gain: the gain of a protected vector; unchanged when None.

    Raises:
        InputError: a threshold off the scale, or a gain that is not finite.
    """

    scores: Scores
    threshold: float = SCORE_THRESHOLD
    gain: float | None = None

    def __post_init__(self) -> None:
        _on_the_scale(self.threshold, "keep_threshold")
        if self.gain is not None:
            check_gain(self.gain)


def by_threshold(
    scores: Scores,
    decomposition: Decomposition,
    *,
    threshold: float = SCORE_THRESHOLD,
    gain: float = 0.0,
    keep: Keep | None = None,
    select: Selection = ALL,
) -> Gains:
    """Give one gain to every vector with at least a score (SITH, for spurious features; Method, sec. 6).

    Args:
        scores: scores on the topic, 1 to 5.
        decomposition: the one that was judged.
        threshold: the minimum score of a chosen vector.
        gain: the gain of every chosen vector; 0 removes it.
        keep: a topic to protect.
        select: which vectors may be chosen.

    Raises:
        InputError: scores of other explanations, a threshold off the scale, a gain that is not finite, or ``keep``
            with a decomposition of one pole.
    """
    gain, threshold = check_gain(gain), _on_the_scale(threshold, "threshold")
    return _chosen(scores, decomposition, lambda s: gain if _reaches(s, threshold) else None, keep, select)


def three_way(
    scores: Scores,
    decomposition: Decomposition,
    *,
    invert_from: float = 3.0,
    remove_from: float = 4.0,
    keep: Keep | None = None,
    select: Selection = ALL,
) -> Gains:
    """Invert vectors with middling scores and remove those with high ones (SITH, for unsafe content; Method, sec. 6).

    The paper's judge gives whole scores: 3 gets -1, 4 and 5 get 0. A fraction counts as its floor:
    ``invert_from <= score < remove_from`` gets -1, ``remove_from <= score`` gets 0, lower scores leave the gain at 1.
    With equal limits nothing is inverted, and the rule is :func:`by_threshold`.

    Args:
        scores, decomposition, keep, select: as for :func:`by_threshold`.
        invert_from, remove_from: the two limits, the first at most the second.

    Raises:
        InputError: as for :func:`by_threshold`, or limits in the wrong order.
    """
    low, high = _on_the_scale(invert_from, "invert_from"), _on_the_scale(remove_from, "remove_from")
    if low > high:
        raise InputError(f"invert_from must be at most remove_from; got {low} and {high}")

    def rule(score: float) -> float | None:
        return 0.0 if _reaches(score, high) else -1.0 if _reaches(score, low) else None

    return _chosen(scores, decomposition, rule, keep, select)


def topic_shares(scores: Scores, decomposition: Decomposition, select: Selection = ALL) -> Tensor:
    """Return scores as shares for :func:`sith_hf.gains.budgeted`, 1 to 5 becoming 0 to 1: ``[L, H, R]`` float32.

    A vector without a score has a share of 0. Arguments as for :func:`by_threshold`; of ``select`` only ``both_poles``
    matters.

    Raises:
        InputError: scores of other explanations.
    """
    scores.check(decomposition)
    share = (_vector_scores(scores, select) - LOWEST_SCORE) / (HIGHEST_SCORE - LOWEST_SCORE)
    return torch.nan_to_num(share, nan=0.0).to(torch.float32)


def _chosen(
    scores: Scores,
    decomposition: Decomposition,
    rule: Callable[[float], float | None],
    keep: Keep | None,
    select: Selection,
) -> Gains:
    scores.check(decomposition)
    if keep is not None:
        if len(decomposition.poles) < 2:
            raise InputError('keep needs both poles, but only one pole was explained: decompose with poles "+-"')
        keep.scores.check(decomposition)
    gain: dict[VectorKey, float] = {}
    reason: dict[VectorKey, str] = {}
    protected: dict[VectorKey, str] = {}
    unscored: set[VectorKey] = set()
    named: dict[VectorKey, Mapping[str, Direction]] = {}
    value = _vector_scores(scores, select)
    for key, place in select.vectors(decomposition):
        score = float(value[place])
        if math.isnan(score):
            unscored.add(key)
            continue
        new = rule(score)
        if new is None:
            continue
        top = int(torch.nan_to_num(scores.value[place], nan=0.0).argmax())
        how = "mean of both poles" if select.both_poles and len(scores.poles) > 1 else f"pole {scores.poles[top]}"
        words = f"{scores.topic}: score {score:.2f}, {how} ({scores.judge})"
        if keep is not None:
            # Two poles, so the other one is 1 - top.
            other, pole = float(keep.scores.value[place][1 - top]), f"pole {keep.scores.poles[1 - top]}"
            if _reaches(other, keep.threshold):
                about = f"{pole} is about {keep.scores.topic}: score {other:.2f} ({keep.scores.judge})"
                protected[key] = f"{about}, although {words}"
                if keep.gain is None:
                    continue
                new, words = keep.gain, f"{words}; {about}"
            elif math.isnan(other):
                words = f"{words}; {pole} has no score on {keep.scores.topic}"
        gain[key], reason[key] = new, words
        if key not in protected:
            named[key] = dict.fromkeys(_concepts(scores, decomposition, key, top), direction_of(new))
    return Gains(gain, reason, protected, frozenset(unscored), named=named)


def _concepts(scores: Scores, decomposition: Decomposition, key: VectorKey, pole: int) -> tuple[str, ...]:
    """Return the concepts of the topic; for a judge that has none, the first concept of the pole that it scored."""
    listed = scores.record.get("concepts")
    if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
        return tuple(listed)
    return tuple(text for text, _ in decomposition.explain(*key, scores.poles[pole]).concepts[:1])


def _vector_scores(scores: Scores, select: Selection) -> Tensor:
    """Return one score for each vector, ``[L, H, R]`` float64; NaN for a vector without a score."""
    value = scores.value.double()
    if select.both_poles:
        return value.mean(dim=-1)
    highest = torch.nan_to_num(value, nan=-1.0).amax(dim=-1)
    return torch.where(highest < 0, torch.nan, highest)


def _reaches(score: float, limit: float) -> bool:
    return score >= limit - ROUNDING


def _on_the_scale(value: float, name: str) -> float:
    number = finite_number(value, name)
    if not LOWEST_SCORE < number <= HIGHEST_SCORE:
        raise InputError(f"{name} must be above {LOWEST_SCORE:g} and at most {HIGHEST_SCORE:g}; got {value}")
    return number
