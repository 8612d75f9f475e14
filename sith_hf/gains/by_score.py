"""From scores to gains: a threshold, and the rule with three ways (METHOD.md sec. 6). Both poles are looked at.

A vector writes both of its poles, so an edit always meets both. Its score is that of its highest pole, or the mean
over its poles with ``both_poles``. Poles without a score are left out of the highest; a mean needs all of
them. A vector that has no score then is never chosen, and stands in ``Gains.unscored``.

``keep`` are scores on a topic that must not suffer. Before a vector is edited, the pole other than the one that speaks
of the topic is looked up there: with ``keep_threshold`` or more the vector is spared, or damped to ``keep_gain``, and
``Gains.spared`` says why. A pole that has no score on the topic to keep spares nothing; the reason of the vector
then says that it had none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from sith_hf.core.validation import finite_number
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import Gains, Key, among, check_gain
from sith_hf.gains.scores import HIGHEST_SCORE, LOWEST_SCORE, Scores

# "Mainly about it" on the scale of the judges, and the paper's own threshold.
SCORE_THRESHOLD = 3.0

# Judges compute in float32: rounding must not keep a score below the limit that it reaches.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Keep:
    """What an edit must not take away.

    Attributes:
        scores: of a topic to keep.
        threshold: the least score of another pole that protects a vector.
        gain: for a protected vector instead of the rule's; None leaves it untouched.
    """

    scores: Scores
    threshold: float
    gain: float | None


def by_threshold(
    scores: Scores,
    decomposition: Decomposition,
    *,
    threshold: float = SCORE_THRESHOLD,
    gain: float = 0.0,
    both_poles: bool = False,
    keep: Scores | None = None,
    keep_threshold: float = SCORE_THRESHOLD,
    keep_gain: float | None = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
) -> Gains:
    """One gain for every vector with at least a score (SITH, for spurious features; METHOD.md sec. 6).

    Args:
        scores: of the topic, 1 to 5.
        decomposition: what was judged.
        threshold: the least score that is chosen.
        gain: for every chosen vector; 0 removes it.
        both_poles: a vector's score is the mean over its poles, not the highest.
        keep, keep_threshold, keep_gain: see the module; ``keep_gain`` None spares altogether.
        layers, heads: choose only among these; among all of the decomposition when None.

    Raises:
        InputError: scores of other explanations, a threshold out of the scale, a gain that is not finite, or
            ``keep`` with a decomposition of one pole.
    """
    gain, threshold = check_gain(gain), _on_the_scale(threshold, "threshold")
    kept = _keep(keep, keep_threshold, keep_gain, decomposition)
    where = among(decomposition, layers, heads)
    return _chosen(scores, decomposition, lambda s: gain if _reaches(s, threshold) else None, both_poles, kept, where)


def three_way(
    scores: Scores,
    decomposition: Decomposition,
    *,
    invert_from: float = 3.0,
    remove_from: float = 4.0,
    both_poles: bool = False,
    keep: Scores | None = None,
    keep_threshold: float = SCORE_THRESHOLD,
    keep_gain: float | None = None,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
) -> Gains:
    """Middling vectors are inverted, strong ones removed (SITH, for unsafe content; METHOD.md sec. 6).

    The paper's judge gives whole scores: 3 gets -1, 4 and 5 get 0. Ours may give fractions, and a score is taken at its
    floor: ``invert_from <= score < remove_from`` gets -1, ``remove_from <= score`` gets 0, anything less is left alone.
    With equal limits nothing is inverted, and the rule is :func:`by_threshold`.

    Args:
        scores: of the topic, 1 to 5.
        decomposition: what was judged.
        invert_from, remove_from: the two limits, the first at most the second.
        both_poles, keep, keep_threshold, keep_gain, layers, heads: as for :func:`by_threshold`.

    Raises:
        InputError: as :func:`by_threshold`, and for limits in the wrong order.
    """
    low, high = _on_the_scale(invert_from, "invert_from"), _on_the_scale(remove_from, "remove_from")
    if low > high:
        raise InputError(f"invert_from is at most remove_from; got {low} and {high}")
    kept = _keep(keep, keep_threshold, keep_gain, decomposition)

    def rule(score: float) -> float | None:
        return 0.0 if _reaches(score, high) else -1.0 if _reaches(score, low) else None

    return _chosen(scores, decomposition, rule, both_poles, kept, among(decomposition, layers, heads))


def topic_shares(scores: Scores, decomposition: Decomposition, *, both_poles: bool = False) -> Tensor:
    """Scores as shares, 1 to 5 becoming 0 to 1, for :func:`sith_hf.gains.budgeted`; ``[L, H, R]`` float32.

    Args:
        scores, decomposition, both_poles: as for :func:`by_threshold`. A vector without a score has a share of 0.

    Raises:
        InputError: scores of other explanations.
    """
    scores.check(decomposition)
    share = (_vector_scores(scores, both_poles) - LOWEST_SCORE) / (HIGHEST_SCORE - LOWEST_SCORE)
    return torch.nan_to_num(share, nan=0.0).to(torch.float32)


def _chosen(
    scores: Scores,
    decomposition: Decomposition,
    rule: Callable[[float], float | None],
    both_poles: bool,
    keep: Keep | None,
    where: Tensor,
) -> Gains:
    scores.check(decomposition)
    gain: dict[Key, float] = {}
    reason: dict[Key, str] = {}
    spared: dict[Key, str] = {}
    unscored: set[Key] = set()
    value = _vector_scores(scores, both_poles)
    for at, head, vector in torch.nonzero(where.unsqueeze(-1).expand(value.shape)).tolist():
        key = (decomposition.layers[at], head, vector)
        score = float(value[at, head, vector])
        if score != score:
            unscored.add(key)
            continue
        new = rule(score)
        if new is None:
            continue
        poles = scores.value[at, head, vector]
        top = int(torch.nan_to_num(poles, nan=0.0).argmax())
        how = "mean of both poles" if both_poles and len(scores.poles) > 1 else f"pole {scores.poles[top]}"
        words = f"{scores.topic}: score {score:.2f}, {how} ({scores.judge})"
        if keep is not None:
            protects, said = _protected(keep, keep.scores.value[at, head, vector].tolist(), top)
            if protects:
                spared[key] = f"{said}, although {words}"
                if keep.gain is None:
                    continue
                new = keep.gain
            words = f"{words}; {said}" if said else words
        gain[key], reason[key] = new, words
    return Gains(MappingProxyType(gain), MappingProxyType(reason), MappingProxyType(spared), frozenset(unscored))


def _protected(keep: Keep, poles: list[float], top: int) -> tuple[bool, str]:
    """Whether a pole other than ``top`` speaks of what is to be kept, and a few words on it where there are any."""
    others = {i: score for i, score in enumerate(poles) if i != top}
    names = {i: f"pole {keep.scores.poles[i]}" for i in others}
    for i, score in others.items():
        if _reaches(score, keep.threshold):
            return True, f"{names[i]} speaks of {keep.scores.topic}: score {score:.2f} ({keep.scores.judge})"
    silent = [names[i] for i, score in others.items() if score != score]
    return False, f"{', '.join(silent)} has no score on {keep.scores.topic}" if silent else ""


def _vector_scores(scores: Scores, both_poles: bool) -> Tensor:
    """One score for each vector, ``[L, H, R]`` float64; NaN where there is none."""
    value = scores.value.double()
    if both_poles:
        return value.mean(dim=-1)
    highest = torch.nan_to_num(value, nan=-1.0).amax(dim=-1)
    return torch.where(highest < 0, torch.nan, highest)


def _keep(keep: Scores | None, threshold: float, gain: float | None, decomposition: Decomposition) -> Keep | None:
    if keep is None:
        return None
    if len(decomposition.poles) < 2:
        raise InputError(
            'keep looks at the pole that is not about the topic, and only one pole was explained: decompose with "+-"'
        )
    keep.check(decomposition)
    return Keep(keep, _on_the_scale(threshold, "keep_threshold"), None if gain is None else check_gain(gain))


def _reaches(score: float, limit: float) -> bool:
    return score >= limit - ROUNDING


def _on_the_scale(value: float, name: str) -> float:
    number = finite_number(value, name)
    if not LOWEST_SCORE < number <= HIGHEST_SCORE:
        raise InputError(f"{name} is a score above {LOWEST_SCORE:g} and at most {HIGHEST_SCORE:g}; got {value}")
    return number
