"""``explain_change``: the leading directions of a change in words, with the pursuit and p-values of decompositions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from sith_hf.adaptation.change import change_factors
from sith_hf.adaptation.head_change import HeadChange
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition import DecomposeSettings, Explanation, adjusted, concepts_text, decompose
from sith_hf.files import ResumableJob
from sith_hf.pursuit import Pursuit
from sith_hf.towers import AttentionLayer, HeadFactors, Tower, layer_title

FDR = 0.05


@short_repr
@dataclass(frozen=True)
class ChangeWords:
    """One direction that a change writes, explained: a singular vector of M' - M of one head.

    Attributes:
        poles: the explanations of its poles; their vector 0 is the head's leading direction of change, and their
            energy share is of the head's change.
        q: for each pole the false discovery rate at which it is beyond chance, over all poles of all directions.
        share: of the energy of the whole change.
    """

    poles: tuple[Explanation, ...]
    q: tuple[float, ...]
    share: float

    @property
    def beyond_chance(self) -> tuple[bool, ...]:
        """For each pole, whether its words are better than chance, at a false discovery rate of 5 %."""
        return tuple(q <= FDR for q in self.q)

    def rows(self, settings: Any) -> list[list[object]]:
        """Return a table row for each pole with words beyond chance; ``settings``: of the base tower."""
        return [
            [layer_title(p.layer, settings), p.head, p.vector, p.pole, self.share, p.fidelity, concepts_text(p)]
            for p, beyond in zip(self.poles, self.beyond_chance, strict=True)
            if beyond
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        first = self.poles[0]
        return {
            "layer": first.layer,
            "head": first.head,
            "direction": first.vector,
            "share": self.share,
            "share_of_head": first.energy_share,
            "poles": [
                {
                    "pole": pole.pole,
                    "concepts": [list(pair) for pair in pole.concepts],
                    "fidelity": pole.fidelity,
                    "p_value": pole.p_value,
                    "q_value": q,
                    "beyond_chance": beyond,
                }
                for pole, q, beyond in zip(self.poles, self.q, self.beyond_chance, strict=True)
            ],
        }


@dataclass(frozen=True, eq=False)
class ChangedLayer(AttentionLayer):
    """The layer of the base as a layer whose value-output matrices are the changes M' - M; for decomposing only."""

    tuned: AttentionLayer | None = None

    def factors(
        self, num_heads: int, *, fold: bool = True, centre: bool = True, dtype: torch.dtype = torch.float64
    ) -> HeadFactors:
        """Return thin factors of the changes, ``[H, D, 2d]`` and ``[H, 2d, D]``; no constant."""
        assert self.tuned is not None
        base = super().factors(num_heads, fold=fold, centre=centre, dtype=dtype)
        write, read = change_factors(base, self.tuned.factors(num_heads, fold=fold, centre=centre, dtype=dtype))
        return HeadFactors(write=write, read=read, constant=read.new_zeros(read.shape[:2]))


def explain_change(
    base: Tower,
    tuned: Tower,
    changed: tuple[HeadChange, ...],
    dictionary: ConceptDictionary,
    pursuit: Pursuit | None = None,
    *,
    device: torch.device | str | None = None,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> tuple[ChangeWords, ...]:
    """Explain the leading write directions of the changes of some heads, both poles.

    They take the way of the base to the joint space, and the false discovery rate is over all of them.

    Args:
        base, tuned: the towers.
        changed: the heads that changed, with the number of their directions.
        dictionary: encoded concepts.
        pursuit: the sparse coder.
        device, job, progress: as for :func:`sith_hf.decomposition.decompose`.

    Returns:
        the directions by descending energy; none for no changed head.

    Raises:
        InputError: as for :func:`sith_hf.decomposition.decompose`.
    """
    heads = {(head.layer, head.head): head for head in changed}
    layers = sorted({head.layer for head in changed})
    if not layers:
        return ()
    rank = max(len(head.directions) for head in changed)
    rows = [
        ChangedLayer(**vars(one), tuned=other) if number in layers else one
        for number, (one, other) in enumerate(zip(base.layers, tuned.layers, strict=True))
    ]
    settings = DecomposeSettings(layers=layers, rank=rank, pursuit=pursuit or Pursuit())
    found = decompose(
        replace(base, layers=tuple(rows)), dictionary, settings, device=device, job=job, progress=progress
    )
    places = [(*place, i) for place, head in heads.items() for i in range(len(head.directions))]
    poles = [tuple(found.explain(*place, pole) for pole in found.poles) for place in places]
    p = torch.tensor([[float(e.p_value or 1.0) for e in both] for both in poles], dtype=torch.float64)
    total = sum(head.energy for head in changed)
    words = [
        ChangeWords(both, tuple(q), heads[place[:2]].directions[place[2]] * heads[place[:2]].energy / total)
        for place, both, q in zip(places, poles, adjusted(p).tolist(), strict=True)
    ]
    return tuple(sorted(words, key=lambda item: -item.share))
