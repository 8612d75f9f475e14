"""Singular vectors without explanations: for towers without texts, whose vectors are edited by number."""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.decomposition.settings import DecomposeSettings
from sith_hf.decomposition.svd import factored_svd
from sith_hf.towers import Tower


def factor(
    tower: Tower,
    settings: DecomposeSettings,
    *,
    name: str,
    revision: str | None,
    progress: bool = False,
) -> Decomposition:
    """Factor the heads of some layers and explain nothing (Method, sec. 1 and 2).

    The result has no poles, no concepts and a joint space of size 0, so a ceiling is 0. Its tensors are float32.

    Args:
        tower: the tower to factor.
        settings: layers, rank, folding and centring; nothing about explanations.
        name, revision: the source of the tower's weights, for provenance.
        progress: show a bar on stderr.

    Raises:
        InputError: a setting of explanations, or one out of range.
    """
    numbers = settings.check_vectors(tower)
    values, energy, write, read = [], [], [], []
    for number in tqdm(numbers, desc="factoring", unit="layer", disable=not progress):
        factors = tower.layers[number].factors(tower.num_heads, fold=settings.fold, centre=settings.centred)
        svd = factored_svd(factors.write.cpu(), factors.read.cpu())
        values.append(svd.values[:, : settings.rank].float())
        energy.append((svd.values**2).sum(dim=-1).float())
        write.append(svd.write[:, : settings.rank].float())
        read.append(svd.read[:, : settings.rank].float())
    shape = (len(values), *values[0].shape)
    return Decomposition(
        layers=numbers,
        singular_values=torch.stack(values),
        energy=torch.stack(energy),
        write=torch.stack(write),
        read=torch.stack(read),
        concept=torch.empty(*shape, 0, 0, dtype=torch.int64),
        weight=torch.empty(*shape, 0, 0),
        fidelity=torch.empty(*shape, 0),
        coherence=torch.empty(*shape, 0),
        ceiling=torch.zeros(shape),
        texts=(),
        embeddings=torch.empty(0, 0),
        dictionary_mean=torch.empty(0),
        image_mean=torch.empty(0),
        poles=(),
        base=BaseRef(name, revision, tower.sha256(numbers), tower.settings),
        settings=record(settings, tower),
    )


def record(settings: DecomposeSettings, tower: Tower) -> dict[str, Any]:
    """Return the settings of the vectors alone; the tower and family only where they are not CLIP's vision tower."""
    return {
        "fold": settings.fold,
        "centre": settings.centred,
        **({} if tower.kind == "vision" else {"tower": tower.kind}),
        **({} if tower.family == "clip" else {"family": tower.family}),
    }
