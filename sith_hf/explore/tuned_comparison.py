"""The model of a decomposition and one that was fine-tuned from it, compared head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from sith_hf.adaptation import Adaptation, change_svd, load_tuned
from sith_hf.core.escaping import shown_name
from sith_hf.decomposition import Decomposition, factored_svd, p_values, quality_of
from sith_hf.errors import InputError
from sith_hf.explore.compare_view import (
    Comparison,
    Direction,
    HeadComparison,
    Pole,
    Side,
    change_facts,
    change_map,
    change_sentences,
    head_title,
    side_of,
    vector_pairs,
    words_of,
)
from sith_hf.pursuit import Pursuit
from sith_hf.towers import Tower

if TYPE_CHECKING:
    from sith_hf.editor import SithEditor

DIRECTIONS = 3
"""Directions of the change of a head."""


@dataclass(frozen=True, eq=False)
class TunedComparison(Comparison):
    """The model of a decomposition, and one that was fine-tuned from it."""

    base: SithEditor
    tuned: Tower
    found: Adaptation

    @classmethod
    def of(cls, base: SithEditor, other: str) -> TunedComparison:
        """Compare. Raises InputError for a model that cannot be loaded or has another architecture."""
        from sith_hf.editor import SithEditor

        tuned = SithEditor(load_tuned(base.loaded, other), kind=base.tower.kind)
        found = base.compare(tuned, layers=base.decomposition.layers)
        data = found.to_json()
        maps = {"change": change_map(data["heads"], base.decomposition.base.settings)}
        names = (shown_name(base.loaded.name), shown_name(other))
        return cls(names, change_sentences(data), maps, base, tuned.tower, found)

    def head(self, layer: int, head: int) -> HeadComparison:
        """Return a head of both; the vectors after the change are explained by the concepts of the decomposition."""
        first = self.base.decomposition
        before = side_of(first, layer, head)
        change = next(item for item in self.found.heads if (item.layer, item.head) == (layer, head))
        words = Words(first, self.base.tower, layer)
        after = self._after(first, layer, head, words)
        writes = reads = None
        if words.known and change.changed:
            svd = change_svd(self.base.tower.layers[layer], self.tuned.layers[layer], self.tuned.num_heads)
            count = len(change.directions[:DIRECTIONS])
            writes = _directions(change.directions, words.of(svd.write[head, :count], "write"))
            reads = _directions(change.directions, words.of(svd.read[head, :count], "read"))
        note = "" if words.known else "No words: the decomposition explains no direct effects."
        return HeadComparison(
            layer,
            head,
            head_title(first, layer, head),
            change_facts(change.to_json()),
            vector_pairs(before, after),
            writes,
            reads,
            note,
        )

    def _after(self, first: Decomposition, layer: int, head: int, words: Words) -> Side:
        """Return the vectors of a head after the change."""
        fold = bool(first.settings.get("fold", True))
        centre = bool(first.settings.get("centre", fold))
        factors = self.tuned.layers[layer].factors(self.tuned.num_heads, fold=fold, centre=centre)
        svd = factored_svd(factors.write[head : head + 1].cpu(), factors.read[head : head + 1].cpu())
        energy = svd.values[0].square()
        directions = (svd.read if first.side == "read" else svd.write)[0, : first.rank]
        shares = (energy / energy.sum().clamp(min=1e-30))[: first.rank].tolist()
        return Side(directions, tuple(shares), words.of(directions, first.side))


def _directions(shares: tuple[float, ...], poles: tuple[tuple[Pole, ...], ...]) -> tuple[Direction, ...]:
    return tuple(Direction(share, both) for share, both in zip(shares, poles, strict=False))


@dataclass(frozen=True, eq=False)
class Words:
    """Explains directions of a layer by the concepts that occur in a decomposition.

    A pole is silent if its fidelity is less surprising, against the random directions that the decomposition recorded,
    than that of its own poles beyond chance. Without those, none is.

    Attributes:
        found: the decomposition.
        tower: of the base: what is explained takes its way to the joint space.
        layer: the layer.
    """

    found: Decomposition
    tower: Tower
    layer: int

    @property
    def known(self) -> bool:
        """Whether there are concepts, of direct effects."""
        return self.found.has_words and self.found.effect == "direct"

    def of(self, directions: Tensor, side: str) -> tuple[tuple[Pole, ...], ...]:
        """Return the poles of directions ``[n, D]``, float64; no pole without concepts."""
        if not self.known or not len(directions):
            return ((),) * len(directions)
        found, at = self.found, self.layer if side == "write" else self.tower.written_at(self.layer)
        signs = directions.new_tensor([1.0 if pole == "+" else -1.0 for pole in found.poles])
        signed = directions.unsqueeze(1) * signs.unsqueeze(-1)
        mean = found.image_mean if bool(found.image_mean.any()) else None
        joint = self.tower.to_joint(signed, mean, at).flatten(0, -2).float()
        code = _pursuit(found)(joint, found.atoms)
        fidelity = quality_of(self.tower, found.atoms, signed, code, mean, at).fidelity
        silent = self._silent(fidelity).flatten().tolist()
        poles = [
            Pole(
                found.poles[row % len(found.poles)],
                words_of((found.texts[i], w) for i, w in zip(index, weight, strict=True) if i >= 0 and w > 0),
                silent[row],
            )
            for row, (index, weight) in enumerate(zip(code.index.tolist(), code.weight.tolist(), strict=True))
        ]
        count = len(found.poles)
        return tuple(tuple(poles[start : start + count]) for start in range(0, len(poles), count))

    def _silent(self, fidelity: Tensor) -> Tensor:
        known, beyond = self.found.significance, self.found.beyond_chance()
        if known is None or beyond is None:
            return fidelity.new_zeros(fidelity.shape).bool()
        p = p_values(fidelity, known.sample[known.rows[self.found.position(self.layer)]])
        return p > (float(known.p[beyond].max()) if bool(beyond.any()) else 0.0)


def _pursuit(found: Decomposition) -> Pursuit:
    """Return the sparse coder of a decomposition; the default for what an earlier release did not record."""
    names = ("method", "sparsity", "coherence_weight")
    try:
        return Pursuit(**{name: found.settings[name] for name in names if name in found.settings})
    except InputError:
        return Pursuit()
