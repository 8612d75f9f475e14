"""``diff_decompositions``: where the vectors and the words of two decompositions differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from sith_hf.adaptation.blocks import CLOSE, ends
from sith_hf.adaptation.change import principal_angles
from sith_hf.core.short_repr import short_repr
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError

TURNED = 10.0
"""The angle in degrees above which the vectors of a block are others."""


@short_repr
@dataclass(frozen=True)
class BlockDifference:
    """A block of vectors with close singular values in two decompositions.

    Attributes:
        layer, head: the head.
        first_vector, last_vector: the vectors of the block, the last one included.
        angle: the largest principal angle between what the block writes in either, in degrees.
        only_first, only_second: concepts in the explanations of only one; empty without words.
        fidelity: the mean fidelity in either; None without words.
    """

    layer: int
    head: int
    first_vector: int
    last_vector: int
    angle: float
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    fidelity: tuple[float, float] | None

    @property
    def words_changed(self) -> bool:
        """Whether the words differ."""
        return bool(self.only_first or self.only_second)


@short_repr
@dataclass(frozen=True)
class DecompositionDiff:
    """The differences of two decompositions.

    Attributes:
        blocks: every block of the layers of both.
        settings: the settings that differ, with their value in either; None for a setting that one lacks.
        same_weights: whether both are of the same weights, as far as both record them.
        layers: the layers of both.
    """

    blocks: tuple[BlockDifference, ...]
    settings: dict[str, tuple[Any, Any]]
    same_weights: bool
    layers: tuple[int, ...]

    @property
    def turned(self) -> int:
        """The number of blocks whose vectors are others."""
        return sum(block.angle > TURNED for block in self.blocks)

    @property
    def words_changed(self) -> int:
        """The number of blocks whose words differ."""
        return sum(block.words_changed for block in self.blocks)

    @property
    def fidelity(self) -> tuple[float, float] | None:
        """The mean fidelity over blocks in either; None without words."""
        pairs = [block.fidelity for block in self.blocks if block.fidelity is not None]
        if not pairs:
            return None
        return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "same_weights": self.same_weights,
            "layers": list(self.layers),
            "settings": {name: list(values) for name, values in self.settings.items()},
            "turned": self.turned,
            "words_changed": self.words_changed,
            "fidelity": self.fidelity,
            "blocks": [asdict(block) for block in self.blocks],
        }

    def rows(self, top: int) -> tuple[list[str], list[list[object]]]:
        """Return columns and rows for :func:`sith_hf.core.tables.table`: the blocks that differ, most turned first."""
        columns = ["layer", "head", "vectors", "angle", "fidelity", "only in A", "only in B"]
        found = [block for block in self.blocks if block.angle > TURNED or block.words_changed]
        rows: list[list[object]] = []
        for block in sorted(found, key=lambda item: -item.angle)[:top]:
            same = block.first_vector == block.last_vector
            vectors = str(block.first_vector) if same else f"{block.first_vector}-{block.last_vector}"
            fidelity = "" if block.fidelity is None else f"{block.fidelity[0]:.2f} to {block.fidelity[1]:.2f}"
            words = (", ".join(block.only_first), ", ".join(block.only_second))
            rows.append([block.layer, block.head, vectors, block.angle, fidelity, *words])
        return columns, rows


def diff_decompositions(first: Decomposition, second: Decomposition, close: float = CLOSE) -> DecompositionDiff:
    """Compare two decompositions of towers of one size, block by block.

    Vectors with close singular values in either are one block and are compared as a subspace, since each of them alone
    may turn freely; their concepts are compared as one set.

    Raises:
        InputError: decompositions of different towers, sizes or sides, or without a common layer.
    """
    for name, ours, theirs in (
        ("tower", first.tower, second.tower),
        ("side", first.side, second.side),
        ("number of heads", first.num_heads, second.num_heads),
        ("width", first.write.shape[-1], second.write.shape[-1]),
    ):
        if ours != theirs:
            raise InputError(f"the decompositions do not compare: A has {name} {ours}, B has {name} {theirs}")
    layers = tuple(layer for layer in first.layers if layer in second.layers)
    if not layers:
        raise InputError(
            f"the decompositions have no layer in common: A has {list(first.layers)}, B has {list(second.layers)}"
        )
    blocks = tuple(
        block
        for layer in layers
        for head in range(first.num_heads)
        for block in _blocks(first, second, layer, head, close)
    )
    names = sorted(first.settings.keys() | second.settings.keys())
    settings = {n: (first.settings.get(n), second.settings.get(n)) for n in names}
    common = first.base.sha256.keys() & second.base.sha256.keys()
    same = all(first.base.sha256[name] == second.base.sha256[name] for name in common)
    return DecompositionDiff(blocks, {n: pair for n, pair in settings.items() if pair[0] != pair[1]}, same, layers)


def _blocks(
    first: Decomposition, second: Decomposition, layer: int, head: int, close: float
) -> Iterator[BlockDifference]:
    at = [(item.position(layer), head) for item in (first, second)]
    rank = min(first.rank, second.rank)
    values = [item.singular_values[place][:rank].clamp(min=1e-30).tolist() for item, place in _pairs(first, second, at)]
    edges = [0, *sorted((ends(values[0], close) & ends(values[1], close)) | {rank})]
    sides = [getattr(item, item.side)[place][:rank].double() for item, place in _pairs(first, second, at)]
    explained = first.has_words and second.has_words
    for start, stop in pairwise(edges):
        angles = principal_angles(sides[0][start:stop], sides[1][start:stop])
        words = [_words(item, place, start, stop) for item, place in _pairs(first, second, at)]
        fidelity = [float(item.fidelity[place][start:stop].mean()) for item, place in _pairs(first, second, at)]
        yield BlockDifference(
            layer,
            head,
            start,
            stop - 1,
            max(angles),
            tuple(sorted(words[0] - words[1])) if explained else (),
            tuple(sorted(words[1] - words[0])) if explained else (),
            (fidelity[0], fidelity[1]) if explained else None,
        )


def _pairs(
    first: Decomposition, second: Decomposition, at: list[tuple[int, int]]
) -> Iterator[tuple[Decomposition, tuple[int, int]]]:
    return zip((first, second), at, strict=True)


def _words(found: Decomposition, place: tuple[int, int], start: int, stop: int) -> set[str]:
    index, weight = found.concept[place][start:stop], found.weight[place][start:stop]
    return {found.texts[i] for i in torch.unique(index[(index >= 0) & (weight > 0)]).tolist()}
