"""The impact of an edit: how much of a model it changes, estimated from the weights, and the limits on it.

The limits, on the embedded checkpoint (``sith-hf edit`` refuses an edit above one of them without ``--yes``): random
vectors removed, mean zero-shot accuracy over five kinds of words (``python benchmarks/impact.py``)::

    share of vectors     0     0.1    0.2    0.3    0.4    0.5    0.6    0.7    0.8     1
    energy               0    0.11   0.20   0.30   0.39   0.50   0.61   0.72   0.82     1
    estimated drift      0    0.05   0.10   0.15   0.19   0.25   0.30   0.36   0.41   0.50
    accuracy, %         99      99     97     95     93     87     78     61     47     28

At the limits a random edit costs 6 points, and each further tenth of the energy costs more than the one before, up to
0.7. The shipped recipes change at most 13 % of the energy, with a drift of at most 0.08.

In a text tower the energy is that of its heads, and the drift that of text embeddings. Removing 20, 40 and 60 % of its
vectors at random leaves an accuracy of 97.5, 91.0 and 83.7 % (``python benchmarks/text_tower.py``), so the limits are
the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition import Decomposition
from sith_hf.errors import LargeEdit
from sith_hf.gains.drift import drift_of, drift_shares
from sith_hf.gains.gains import Gains, VectorKey
from sith_hf.towers import Tower

MOST_ENERGY = 0.4
"""The largest share of energy that an edit may take without a confirmation."""
MOST_DRIFT = 0.2
"""The largest estimated drift of an edit without a confirmation."""


@short_repr
@dataclass(frozen=True)
class Impact:
    """How much of a model an edit changes.

    Attributes:
        vectors: the number of vectors whose gain is not 1.
        of: the number of vectors in the decomposition.
        energy: the energy that the edit takes or adds, the sum of (1 - g)^2 s^2, over that of all decomposed heads.
        drift: the estimated mean of 1 - cos between embeddings of the tower before and after (Method, sec. 6): of
            images for a vision tower, of texts for a text tower; None (not known) for a tower without a way to the
            joint space.
        by_chance: the number of edited vectors without an explanation that is better than chance, at a false discovery
            rate of 0.05; None if not known.
        tower: the tower that the numbers are of, ``"vision"`` or ``"text"``.
    """

    vectors: int
    of: int
    energy: float
    drift: float | None
    by_chance: int | None
    tower: str = "vision"

    @property
    def excess(self) -> str:
        """The limits that the edit exceeds, in words; empty if it exceeds none."""
        found = []
        if self.energy > MOST_ENERGY:
            found.append(f"{self.energy:.0%} of the energy of the decomposed heads (limit {MOST_ENERGY:.0%})")
        if self.drift is not None and self.drift > MOST_DRIFT:
            found.append(f"an estimated drift of {self.drift:.2f} (limit {MOST_DRIFT})")
        return " and ".join(found)

    def check(self, how: str = "look at the impact, and save the edit without this check") -> None:
        """Raise LargeEdit if the edit exceeds a limit; ``how`` says how to accept it."""
        if self.excess:
            raise LargeEdit(
                f"this edit of {self.vectors} of {self.of} vectors of the {self.tower} tower changes {self.excess}, "
                "which damages most models: choose fewer vectors, a higher threshold or a lower strength, or, to "
                f"accept it, {how}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return dict(vars(self))

    def __str__(self) -> str:
        chance = "not known" if self.by_chance is None else f"{self.by_chance}"
        drift = "not known" if self.drift is None else f"{self.drift:.3f}"
        return (
            f"{self.vectors} of {self.of} vectors of the {self.tower} tower, {self.energy:.1%} of the energy, "
            f"estimated drift {drift}; explanations no better than chance: {chance}"
        )


def impact_of(
    tower: Tower | None,
    decomposition: Decomposition,
    gain: Mapping[VectorKey, float],
    *,
    shares: Tensor | None = None,
) -> Impact:
    """Estimate the impact of gains of singular vectors.

    Args:
        tower: the tower that was decomposed; None if it is not at hand, so that the drift is not known.
        decomposition: its vectors.
        gain: (layer, head, vector) to gain.
        shares: ``[L, H, R]``, from :func:`sith_hf.gains.drift_shares`; computed when None.

    Raises:
        BaseMismatch, InputError: as for :func:`sith_hf.gains.drift_shares` and :func:`sith_hf.gains.drift.drift_of`;
            also for a vector that is not in the decomposition.
    """
    changed = {key: value for key, value in gain.items() if value != 1}
    places = {key: (decomposition.position(key[0]), *key[1:]) for key in changed}
    energy = decomposition.singular_values.double() ** 2
    taken = sum((1 - changed[key]) ** 2 * float(energy[place]) for key, place in places.items())
    total = max(float(decomposition.energy.double().sum()), torch.finfo(torch.float64).tiny)
    found, by_chance = decomposition.beyond_chance(), None
    if found is not None:
        by_chance = sum(not bool(found[place].any()) for place in places.values())
    drift = None
    if tower is not None and tower.has_joint:
        shares = drift_shares(tower, decomposition) if shares is None else shares
        drift = drift_of(decomposition, shares, Gains(changed))
    elif tower is not None:
        tower.check(decomposition.base, decomposition.layers)
    return Impact(len(changed), energy.numel(), taken / total, drift, by_chance, decomposition.tower)
