"""Shares of true words, by layer and for all layers, with bootstrap intervals over checkpoints and heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 1000
LEVEL = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class Reading:
    """The words that a method prints for every pole of a checkpoint.

    Attributes:
        words: ``[L, N, 2, K]`` int64, places in the dictionary, first word first; -1 for no word.
    """

    words: Tensor

    def silenced(self, speaks: Tensor) -> Reading:
        """Return the same words where ``speaks``, ``[L, N, 2]`` bool, and none elsewhere."""
        return Reading(torch.where(speaks.unsqueeze(-1), self.words, -1))


@dataclass(frozen=True, eq=False)
class Sums:
    """Numerators and denominators by checkpoint, layer and head, ``[C, L, H]`` float64: a share is a ratio of sums."""

    above: Tensor
    below: Tensor

    def share(self, layers: Sequence[int]) -> float:
        """Return the share over some layers; NaN where nothing is counted."""
        return float(self.above[:, list(layers)].sum() / self.below[:, list(layers)].sum())

    def by_checkpoint(self, layers: Sequence[int]) -> list[float]:
        """Return the share in each checkpoint."""
        above, below = (values[:, list(layers)].sum(dim=(1, 2)) for values in (self.above, self.below))
        return (above / below).tolist()

    def drawn(self, layers: Sequence[int], picks: tuple[Tensor, Tensor]) -> Tensor:
        """Return the share in each bootstrap sample, ``[DRAWS]``."""
        checkpoints, heads = picks

        def total(values: Tensor) -> Tensor:
            return values[:, list(layers)].sum(dim=1)[checkpoints.unsqueeze(-1), heads].sum(dim=(1, 2))

        return total(self.above) / total(self.below)


def bootstrap(checkpoints: int, heads: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw checkpoints ``[DRAWS, C]``, and heads of each ``[DRAWS, C, H]``, with replacement.

    Heads of equal number in all layers are drawn together.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(checkpoints, (DRAWS, checkpoints), generator=generator)
    return rows, torch.randint(heads, (DRAWS, checkpoints, heads), generator=generator)


def interval(drawn: Tensor) -> list[float] | list[None]:
    """Return the 95 % interval of bootstrap samples; samples that count nothing are left out, None without any."""
    known = drawn[torch.isfinite(drawn)]
    if not len(known):
        return [None, None]
    return known.quantile(torch.tensor(LEVEL, dtype=known.dtype)).tolist()


def counted(reading: Reading, true: Tensor, names: Tensor, weights: Tensor, heads: int) -> dict[str, Tensor]:
    """Return numerators and denominators of all measures for one checkpoint, each ``[2, L, H]``.

    Args:
        reading: the words.
        true: ``[L, N, 2, V]`` bool, which values are true of each pole.
        names: ``[M]``, the value that each word of the dictionary names.
        weights: ``[L, N]``, the energy of each vector.
        heads: H; the N vectors of a layer are ordered by head.

    Returns:
        ``top``: poles whose first word is true, of poles with words. ``precision``: true words, of words. ``speaking``:
        poles with words, of poles. The same with ``energy `` before the name, weighted by energy.
    """
    there = reading.words >= 0
    right = true.gather(-1, names[reading.words.clamp(min=0)]) & there
    speaks = there[..., 0]
    parts = {
        "top": (right[..., 0], speaks),
        "precision": (right.sum(-1), there.sum(-1)),
        "speaking": (speaks, torch.ones_like(speaks)),
    }
    found = {}
    for name, (above, below) in parts.items():
        both = torch.stack([above, below]).double()
        found[name] = both.sum(-1).unflatten(-1, (heads, -1)).sum(-1)
        weighted = both * weights.double().unsqueeze(-1)
        found[f"energy {name}"] = weighted.sum(-1).unflatten(-1, (heads, -1)).sum(-1)
    return found


def together(parts: Sequence[dict[str, Tensor]]) -> dict[str, Sums]:
    """Join the counts of all checkpoints."""
    return {name: Sums(*torch.stack([part[name] for part in parts], dim=1)) for name in parts[0]}
