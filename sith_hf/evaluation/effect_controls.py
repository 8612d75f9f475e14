"""Edits to compare an edit with: as many random vectors, and as many vectors that carry its concepts most strongly.

The first show what chance does. The second show whether a measurement can tell: where even the vectors that write most
of a concept change it no more than chance, such as in a model with random weights, it says nothing against an edit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from sith_hf.decomposition import DecomposeSettings, Decomposition, decompose
from sith_hf.edits import AnySpec, EditSpec, combined, make_spec
from sith_hf.errors import InputError
from sith_hf.gains import Direction, Gains, random_vectors
from sith_hf.images import OpenModel
from sith_hf.towers import Tower, read_tower

DRAWS = 5
"""The number of sets of random vectors."""

STRONGEST = "strongest"
"""The names of the second kind begin with this, and end with the direction of their concepts."""


def controls_of(
    editor: OpenModel, spec: AnySpec, queries: Mapping[Direction, NDArray[np.float64]]
) -> tuple[dict[str, AnySpec], dict[str, AnySpec]]:
    """Return edits of random vectors and of the strongest carriers, by name, with the gains and layers of an edit.

    Args:
        editor: of the base.
        spec: the edit.
        queries: what the edit is to do to concepts, to their centred embeddings, ``[K, P]``.

    Returns:
        both kinds. The first is empty if an edit leaves no other vectors to draw, and the second leaves out an edit
        that has the strongest vectors itself.
    """
    drawn: list[list[EditSpec]] = [[] for _ in range(DRAWS)]
    carriers: dict[Direction, list[EditSpec]] = {direction: [] for direction in queries}
    own: set[Direction] = set(queries)
    companion = None if editor.companion is None else editor.companion.model
    for part in spec.parts:
        tower = read_tower(editor.model, companion, part.tower)
        recorded = {} if part.provenance is None else part.provenance.decomposition
        rank = recorded.get("rank")
        settings = DecomposeSettings(layers=part.layers, rank=rank if isinstance(rank, int) else None, **part.settings)
        vectors = decompose(tower, None, settings, name=editor.loaded.title, revision=editor.loaded.revision)
        gains = Gains(dict(zip(part.keys, part.gain.tolist(), strict=True)))
        for direction, texts in queries.items():
            ours = _of_direction(part, direction)
            if not ours.gain:
                continue
            # An edit that says to strengthen and weakens is compared with one that strengthens.
            fitting = {
                key: gain if (gain > 1) == (direction == "more") else 2 - gain for key, gain in ours.gain.items()
            }
            found = strongest_vectors(tower, vectors, Gains(fitting), texts)
            if found.gain.keys() != ours.gain.keys() or fitting != dict(ours.gain):
                own.discard(direction)
            carriers[direction].append(make_spec(tower, vectors, found))
        for seed, parts in enumerate(drawn):
            try:
                parts.append(make_spec(tower, vectors, random_vectors(vectors, gains, seed)))
            except InputError:
                return {}, {}
    random = {f"random {seed}": combined(*parts) for seed, parts in enumerate(drawn)}
    return random, {f"{STRONGEST} {each}": combined(*carriers[each]) for each in queries if each not in own}


def strongest_vectors(tower: Tower, vectors: Decomposition, gains: Gains, texts: NDArray[np.float64]) -> Gains:
    """Return as many vectors that carry any of some concepts most strongly, with the same gains.

    Args:
        tower: what was decomposed.
        vectors: the layers of the edit.
        gains: the vectors of the edit that are for these concepts.
        texts: ``[K, P]``, centred embeddings.
    """
    write, queries = vectors.write.double(), torch.from_numpy(texts).double()
    poles = [tower.to_joint_of(vectors.layers, sign * write, None) @ queries.T for sign in (1.0, -1.0)]
    cosine = torch.stack(poles).amax(dim=(0, -1))
    changes = sorted(gains.gain.values(), key=lambda gain: -abs(1 - gain))
    order = cosine.flatten().argsort(descending=True, stable=True)[: len(changes)]
    places = zip(*(axis.tolist() for axis in torch.unravel_index(order, cosine.shape)), strict=True)
    found = {(vectors.layers[layer], head, i): gain for (layer, head, i), gain in zip(places, changes, strict=True)}
    return Gains(dict(sorted(found.items())), dict.fromkeys(sorted(found), "carries the concepts most strongly"))


def _of_direction(part: EditSpec, direction: Direction) -> Gains:
    named = () if part.provenance is None else part.provenance.named
    rows = zip(part.keys, part.gain.tolist(), named, strict=False)
    return Gains({key: gain for key, gain, concepts in rows if direction in concepts.values()})
