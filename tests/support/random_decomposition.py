"""A random decomposition without a model, some of whose poles are far beyond chance and the others silent."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from sith_hf.core.fingerprint import BaseRef
from sith_hf.decomposition import Decomposition, Drivers, Significance

LAYERS, HEADS, RANK, WIDTH, JOINT, WORDS = (3, 5), 3, 5, 8, 6, 3
TEXTS = ("beach", "bird", "boat", "car", "field", "forest", "ice cream", "ocean", "red", "street", "zebra", "ökosystem")


def random_decomposition(
    texts: tuple[str, ...] = TEXTS, *, known: bool = True, driven: bool = True, rank: int = RANK, seed: int = 0
) -> Decomposition:
    """Return a decomposition of 2 layers of 3 heads.

    Args:
        texts: the concepts in use.
        known: whether it has p-values.
        driven: whether drivers were measured; a third of the poles has none.
        rank: vectors of a head.
        seed: of the random numbers.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    vectors, poles = (len(LAYERS), HEADS, rank), (len(LAYERS), HEADS, rank, 2)
    values = normal(*vectors).abs().sort(dim=-1, descending=True).values
    # Two of five poles are explained better than any random direction.
    better = torch.rand(*poles, generator=draw) < 0.4
    fidelity = torch.where(better, 0.7, 0.1)
    driver = torch.randint(-1, 2, (*poles, 1), generator=draw)
    return Decomposition(
        layers=LAYERS,
        singular_values=values,
        energy=(values**2).sum(-1) * 1.3,
        write=normalize(normal(*vectors, WIDTH), dim=-1),
        read=normalize(normal(*vectors, WIDTH), dim=-1),
        concept=torch.randint(0, len(texts), (*poles, WORDS), generator=draw),
        weight=torch.rand(*poles, WORDS, generator=draw).add(0.01).sort(dim=-1, descending=True).values,
        fidelity=fidelity,
        coherence=torch.rand(*poles, generator=draw),
        ceiling=torch.full(vectors, 0.9),
        texts=texts,
        embeddings=normalize(normal(len(texts), JOINT), dim=-1),
        dictionary_mean=normal(JOINT) / 10,
        image_mean=torch.zeros(JOINT),
        poles=("+", "-"),
        base=BaseRef("tiny", None, {f"{layer} {name}": "0" for layer in LAYERS for name in "abcd"}),
        settings={"fold": True, "centre": True},
        significance=Significance.of(fidelity, torch.linspace(0.0, 0.3, 200)[None], [0, 0]) if known else None,
        drivers=Drivers(driver, (driver >= 0) * 0.5, ("a driver", "another driver"), {"count": 100, "title": "noise"})
        if driven
        else None,
    )
