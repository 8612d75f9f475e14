"""Gains for the vectors that carry single words: the rule of ``suppress`` and ``amplify`` without a threshold.

How strongly a vector carries a word is the cosine of its write direction in the joint space with the word's centred
embedding, of the pole with the larger one. Its p-value is the chance that a random direction of the residual stream
carries the word as strongly. A vector is chosen if that is at most :data:`WORD_LEVEL`, divided by the number of words
that are chosen together.

What an edit takes of a word is estimated from the weights: with e_i the energy that vector i writes into the joint
space (:mod:`sith_hf.gains.drift`) and c_i its cosine with the word::

    taken = sum over edited i of |1 - g_i| e_i c_i^2 / sum over all decomposed i of e_i c_i^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.core.short_repr import short_repr
from sith_hf.core.validation import whole_number
from sith_hf.decomposition import SEED, Decomposition, null_directions, p_values
from sith_hf.errors import InputError
from sith_hf.gains.by_concepts import share_of
from sith_hf.gains.drift import drift_shares
from sith_hf.gains.gains import ALL, Evidence, Gains, Selection, VectorKey, check_gain, direction_of
from sith_hf.pursuit import centred
from sith_hf.towers import Tower

# The random directions of the null, and their tail, are those of the releases in which the rule was chosen.
DRAWS = 4000

WORD_LEVEL = 0.1
"""The largest p-value of a chosen vector: at most one in ten random directions carries the word as strongly."""

FELT = 0.5
"""Below this share of a word's writing, an edit mostly leaves what the model sees of the word."""

# The strongest vectors that were left out are listed, up to this number.
LISTED = 5


@short_repr
@dataclass(frozen=True, eq=False)
class WordCarriers:
    """How strongly each vector carries a word.

    Attributes:
        word: the word.
        share: ``[L, H, R]`` float32, the share of each explanation that is about the word or near ones.
        cosine: ``[L, H, R]`` float64, 0 to 1, of the pole with the larger cosine.
        positive: ``[L, H, R]`` bool, whether that is the pole "+".
        p: ``[L, H, R]`` float64, the p-value of each cosine.
        written: ``[L, H, R]`` float64, each vector's share of what all vectors write of the word; the sum is 1.
    """

    word: str
    share: Tensor
    cosine: Tensor
    positive: Tensor
    p: Tensor
    written: Tensor

    def taken(self, decomposition: Decomposition, gains: Gains) -> float:
        """Estimate the share of what the model writes of the word that an edit changes, 0 to 1 (see above)."""
        parts = (
            abs(1 - gain) * float(self.written[decomposition.position(layer), head, vector])
            for (layer, head, vector), gain in gains.gain.items()
        )
        return min(1.0, sum(parts))


@short_repr
@dataclass(frozen=True)
class WordChoice:
    """The vectors chosen for a word, and what was left out.

    Attributes:
        word: the word.
        chosen: the number of vectors chosen.
        candidates: the number that could be chosen, by layers and heads.
        left_out: the strongest vectors that were not chosen, with the reason, strongest first.
    """

    word: str
    chosen: int
    candidates: int
    left_out: tuple[tuple[VectorKey, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        names = ("layer", "head", "vector")
        left_out = [{**dict(zip(names, key, strict=True)), "reason": reason} for key, reason in self.left_out]
        return {**vars(self), "left_out": left_out}


def word_carriers(
    tower: Tower, decomposition: Decomposition, queries: Mapping[str, Tensor]
) -> tuple[WordCarriers, ...]:
    """Measure how strongly each vector carries some words.

    Args:
        tower: the tower that was decomposed.
        decomposition: the vectors.
        queries: word to its text embedding, ``[P]``, not centred.

    Raises:
        BaseMismatch: the tower's weights are not the ones that were decomposed.
        InputError: no word, or as for :func:`sith_hf.gains.drift_shares`.
    """
    if not queries:
        raise InputError("name at least one concept")
    energy = drift_shares(tower, decomposition)
    words = centred(torch.stack([query.float() for query in queries.values()]), decomposition.dictionary_mean).double()
    mean = decomposition.image_mean if bool(decomposition.image_mean.any()) else None
    generator = torch.Generator().manual_seed(SEED)
    centred_too = decomposition.settings.get("centre") is not False
    noise = null_directions("residual", decomposition.write, DRAWS, centre=False, generator=generator)

    def by_chance(layer: int) -> Tensor:
        drawn = noise
        if centred_too and tower.layers[layer].write_centred:
            drawn = normalize(noise - noise.mean(dim=-1, keepdim=True), dim=-1)
        found = torch.stack([tower.to_joint(sign * drawn, mean, layer) @ words.T for sign in (1.0, -1.0)])
        return found.amax(dim=0).clamp(min=0, max=1)

    layers, write = decomposition.layers, decomposition.write.double()
    poles = torch.stack([tower.to_joint_of(layers, sign * write, mean) @ words.T for sign in (1.0, -1.0)])
    # Layers with one way to the joint space share one sample.
    samples = {id(tower.readout(layer)): by_chance(layer) for layer in layers}
    chance = [samples[id(tower.readout(layer))] for layer in layers]
    carriers = []
    for number, (word, query) in enumerate(queries.items()):
        cosine = poles[..., number].amax(dim=0).clamp(min=0, max=1)
        positive = poles[0, ..., number] >= poles[1, ..., number]
        written = energy * cosine**2
        written = written / written.sum().clamp(min=torch.finfo(torch.float64).tiny)
        share = share_of(decomposition, {word: query})
        p = torch.stack([p_values(each, by[:, number], "exponential") for each, by in zip(cosine, chance, strict=True)])
        carriers.append(WordCarriers(word, share, cosine, positive, p, written))
    return tuple(carriers)


def by_word(
    decomposition: Decomposition,
    carriers: WordCarriers,
    gain: float,
    *,
    top: int | None = None,
    level: float = WORD_LEVEL,
    select: Selection = ALL,
) -> tuple[Gains, WordChoice]:
    """Give one gain to the vectors that carry a word beyond chance.

    Args:
        decomposition: the vectors to choose from.
        carriers: of :func:`word_carriers`.
        gain: the gain of every chosen vector.
        top: choose this number of vectors, the strongest, whether beyond chance or not.
        level: the largest p-value of a chosen vector, above 0 and at most 1; for one of N words that are chosen
            together, the level of them all divided by N.
        select: which vectors may be chosen; ``both_poles`` does not matter.

    Returns:
        the gains, empty if no vector carries the word beyond chance; and what was chosen and left out.

    Raises:
        InputError: a gain that is not finite, or values out of range.
    """
    gain = check_gain(gain)
    allowed = list(select.vectors(decomposition))
    order = sorted(allowed, key=lambda item: -float(carriers.cosine[item[1]]))
    beyond = sum(float(carriers.p[place]) <= level for _, place in order)
    count = beyond if top is None else min(whole_number(top, "top", least=1), len(order))
    chosen, rest = order[:count], order[count : count + LISTED]
    reason = {key: _reason(carriers, place) for key, place in chosen}
    evidence = {key: (_evidence(carriers, place),) for key, place in chosen}
    why = "no more than chance" if top is None else f"beyond the strongest {count}"
    left_out = tuple((key, f"{_reason(carriers, place)}: {why}") for key, place in rest)
    keys = sorted(reason)
    named = {key: {carriers.word: direction_of(gain)} for key in keys}
    gains = Gains(dict.fromkeys(keys, gain), {key: reason[key] for key in keys}, evidence=evidence, named=named)
    return gains, WordChoice(carriers.word, count, len(order), left_out)


def _evidence(carriers: WordCarriers, place: tuple[int, int, int]) -> Evidence:
    share, cosine, p = (float(values[place]) for values in (carriers.share, carriers.cosine, carriers.p))
    return Evidence(carriers.word, share, cosine, p, "+" if carriers.positive[place] else "-")


def _reason(carriers: WordCarriers, place: tuple[int, int, int]) -> str:
    return f"{carriers.word}: cosine {float(carriers.cosine[place]):.2f}, p {float(carriers.p[place]):.2g}"
