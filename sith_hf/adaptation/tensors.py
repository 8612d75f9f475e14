"""Which tensors of a tower differ between two models in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sith_hf.towers import family_of


@dataclass(frozen=True)
class TensorChanges:
    """The tensors of one tower that differ.

    Attributes:
        total: the number of tensors that either model has.
        changed: the names of those that differ, or that only one has, as in the tower's module.
    """

    total: int
    changed: tuple[str, ...]


def tensor_changes(base: Any, tuned: Any, kind: str) -> TensorChanges:
    """Compare the tensors of a tower of two models of one family, with the projection that follows it; by value."""
    ours, theirs = (_tensors(model, kind) for model in (base, tuned))
    names = sorted(ours.keys() | theirs.keys())
    changed = [n for n in names if n not in ours or n not in theirs or not _equal(ours[n], theirs[n])]
    # A model of one tower may lack the projection, which says nothing.
    lone = {"projection"} if ("projection" in ours) != ("projection" in theirs) else set()
    return TensorChanges(len(names) - len(lone), tuple(name for name in changed if name not in lone))


def _tensors(model: Any, kind: str) -> dict[str, torch.Tensor]:
    family = family_of(model)
    tower, _ = family.locate(model, kind)
    found = dict(tower.named_parameters())
    projection = family.projection(model, kind)
    return found if projection is None else {**found, "projection": projection.weight}


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    wide = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.detach().cpu().to(wide), other.detach().cpu().to(wide))
