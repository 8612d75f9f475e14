"""``Terms``: an edit of one tower as a sum of rank-one terms, and its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.validation import finite_number
from sith_hf.decomposition import poles_label
from sith_hf.edits.layer_change import LayerChange
from sith_hf.edits.place import Place
from sith_hf.edits.provenance import Provenance
from sith_hf.edits.storage import EDIT_SPEC_LAYOUT
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.towers import layer_title


@dataclass(frozen=True, eq=False)
class Terms:
    """New gains for N singular vectors, with everything needed to write them into a checkpoint (Method, sec. 6).

    With d the head size, each term changes two tensors of its layer by::

        out_proj.weight[:, head*d : (head+1)*d] += (gain - 1) * outer(column, row)
        out_proj.bias                           -= (gain - 1) * constant * column

    The column is the write direction, divided by the layer scale of layers that have one.
    With ``reverts`` the same is subtracted: the spec then restores the base from the edited weights.
    Terms are sorted by layer, head and vector; each occurs once, and none has a gain of 1.

    Attributes:
        layer, head, vector: ``[N]`` int64, the positions of the singular vectors.
        gain: ``[N]`` float64; 0 removes, above 1 amplifies, -1 inverts.
        write: ``[N, D]`` float32, the write directions.
        row: ``[N, d]`` float32, w^T C B_h: the linear reading of the head's values by each write direction.
        constant: ``[N]`` float32, the part of that reading that does not depend on the input.
        column: ``[N, D]`` float32, where it is not ``write``; else None.
        labels: for each vector, the concepts that explain it.
        base: the weights that the edit was made for.
        place: the tower, and the tensors in it.
        settings: ``fold`` and ``centre`` of the decomposition.
        reverts: whether this spec removes the edit.
        provenance: why each vector was chosen, None where unknown.
        edited_sha256: fingerprints of the changed tensors after the edit; None for an edit that was not written.
    """

    layer: Tensor
    head: Tensor
    vector: Tensor
    gain: Tensor
    write: Tensor
    row: Tensor
    constant: Tensor
    labels: tuple[str, ...]
    base: BaseRef
    settings: Mapping[str, Any]
    place: Place = field(default_factory=Place)
    column: Tensor | None = None
    reverts: bool = False
    provenance: Provenance | None = None
    edited_sha256: Mapping[str, str] | None = None

    @classmethod
    def from_terms(cls, **fields: Any) -> Self:
        """Make a spec of terms in any order: sort them, and drop those whose gain is 1. Arguments are the attributes.

        Raises:
            InputError: a gain that is not finite, or a vector that is named twice.
        """
        spec = cls(**fields)
        keys = spec.keys
        if len(set(keys)) != len(keys):
            raise InputError("an edit names a singular vector twice; give each vector one gain")
        order = [i for i in sorted(range(len(keys)), key=keys.__getitem__) if float(spec.gain[i]) != 1.0]
        index = torch.tensor(order, dtype=torch.int64)
        tensors: dict[str, Any] = {name: tensor[index] for name, tensor in spec.tensors.items()}
        labels = tuple(spec.labels[i] for i in order)
        provenance = None if spec.provenance is None else spec.provenance.select(order)
        return replace(spec, **tensors, labels=labels, provenance=provenance)

    def __post_init__(self) -> None:
        if not torch.isfinite(self.gain).all():
            raise InputError("a gain is NaN or infinite; give finite numbers")

    def __len__(self) -> int:
        return len(self.gain)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Terms):
            return NotImplemented
        names = [name for name in EDIT_SPEC_LAYOUT.tensors if name != "column"]
        same = all(torch.equal(getattr(self, name), getattr(other, name)) for name in (*names, "columns"))
        return (
            same
            and self.place == other.place
            and self.reverts == other.reverts
            and self.base.sha256 == other.base.sha256
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def keys(self) -> list[tuple[int, int, int]]:
        """The (layer, head, vector) of each term."""
        return list(zip(self.layer.tolist(), self.head.tolist(), self.vector.tolist(), strict=True))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the terms by name."""
        found = {name: getattr(self, name) for name in EDIT_SPEC_LAYOUT.tensors}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def columns(self) -> Tensor:
        """What the output projection writes for each term, ``[N, D]``."""
        return self.write if self.column is None else self.column

    @property
    def tower(self) -> str:
        """The tower that the edit changes, ``"vision"`` or ``"text"``."""
        return self.place.tower

    @property
    def layers(self) -> list[int]:
        """The layers that the edit changes, ascending."""
        return sorted(set(self.layer.tolist()))

    @property
    def touched_keys(self) -> set[str]:
        """The canonical names of the tensors that the edit changes."""
        return {name for layer in self.layers for name in self.place.names(layer) if name is not None}

    def change(self, layer: int) -> LayerChange:
        """Return the sum of the terms of one layer, in float64 (Method, sec. 6); zero for other layers."""
        here = self.layer == layer
        amount = (self.gain[here] - 1) * (-1 if self.reverts else 1)
        head, row, constant = self.head[here], self.row[here].double(), self.constant[here].double()
        scaled = amount.unsqueeze(-1) * self.columns[here].double()
        terms = {number: head == number for number in sorted(set(head.tolist()))}
        return LayerChange(
            heads={number: scaled[term].T @ row[term] for number, term in terms.items()},
            bias=-(scaled * constant.unsqueeze(-1)).sum(dim=0),
        )

    def apply(self, layer: int, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the edited ``out_proj`` weight and bias of one layer; columns of untouched heads keep their bytes.

        Args:
            layer: the layer's number.
            weight: ``[D, D]``, any float dtype.
            bias: ``[D]``, any float dtype; None for a projection without one.

        Returns:
            new tensors of the same dtypes, rounded once from float64.

        Raises:
            BaseMismatch: the tensors have another width than the spec.
        """
        size = self.write.shape[1]
        if weight.shape != (size, size) or (bias is not None and bias.shape != (size,)):
            raise BaseMismatch(
                f"out_proj of layer {layer} has shape {list(weight.shape)}, and the edit is for width {size}: "
                "apply it to the base that it was made for"
            )
        change = self.change(layer)
        return (
            change.added_to(weight, bias) if change.heads else (weight.clone(), None if bias is None else bias.clone())
        )

    def inverse(self) -> Self:
        """Return the revert, which subtracts the terms of this spec; ``spec.compose(spec.inverse())`` is empty."""
        return replace(self, reverts=not self.reverts, edited_sha256=None)

    def with_edited_sha256(self, sha256: Mapping[str, str] | None) -> Self:
        """Return the same edit with other fingerprints of the changed tensors; those of other tensors are dropped."""
        touched = self.touched_keys
        kept = None if sha256 is None else {name: value for name, value in sha256.items() if name in touched}
        return replace(self, edited_sha256=kept)

    @property
    def _reversed(self) -> Provenance | None:
        return None if self.provenance is None else self.provenance.reverse()

    def with_reverts(self, reverts: bool) -> Self:
        """Return the same change of the weights as an edit or as a revert."""
        # A revert with gain g equals an edit with gain 2 - g.
        if reverts == self.reverts:
            return self
        return replace(self, reverts=reverts, gain=2 - self.gain, provenance=self._reversed)

    def merge(self, other: Self) -> Self:
        """Combine two edits of one tower, as :meth:`sith_hf.edits.EditSpec.compose` says."""
        if (self.place.tower, self.place.family) != (other.place.tower, other.place.family):
            raise BaseMismatch(
                f"one edit is of {self.place.title}, the other of {other.place.title}: their vectors do not combine"
            )
        if dict(self.settings) != dict(other.settings):
            raise BaseMismatch(
                f"the two edits have different settings, {self.settings} and {other.settings}: "
                "make both from one decomposition"
            )
        shared = self.base.only(other.base.sha256)
        if not shared.sha256:
            raise BaseMismatch("the two edits have no fingerprint in common: make both from one decomposition")
        shared.check(other.base.sha256, f"the base of the other edit, {other.base.name}", other.base.settings)
        if self.write.shape[1] != other.write.shape[1] or self.row.shape[1] != other.row.shape[1]:
            raise BaseMismatch("the two edits are for towers of different sizes: make both from one decomposition")
        mixed = self.reverts != other.reverts
        theirs = {key: i for i, key in enumerate(other.keys)}
        gains = self.gain.clone()
        for i, key in enumerate(self.keys):
            j = theirs.pop(key, None)
            if j is None:
                continue
            if not torch.allclose(self.write[i], other.write[j], atol=1e-3):
                raise BaseMismatch(
                    f"vector {key} has different directions in the two edits: make both from one decomposition"
                )
            gains[i] = 1 + (gains[i] - other.gain[j]) if mixed else gains[i] * other.gain[j]
        rest = torch.tensor(sorted(theirs.values()), dtype=torch.int64)
        names = [name for name in EDIT_SPEC_LAYOUT.tensors if name not in ("gain", "column")]
        merged = {name: torch.cat([getattr(self, name), getattr(other, name)[rest]]) for name in names}
        scaled = self.column is not None or other.column is not None
        provenance = None
        if self.provenance is not None and other.provenance is not None:
            theirs_as_ours = other.with_reverts(self.reverts).provenance or other.provenance
            provenance = self.provenance.join(theirs_as_ours.select(rest.tolist()))
        return type(self).from_terms(
            **merged,
            gain=torch.cat([gains, other.with_reverts(self.reverts).gain[rest]]),
            column=torch.cat([self.columns, other.columns[rest]]) if scaled else None,
            labels=(*self.labels, *(other.labels[i] for i in rest.tolist())),
            base=replace(self.base, sha256={**self.base.sha256, **other.base.sha256}),
            settings=self.settings,
            place=replace(self.place, outputs={**self.place.outputs, **other.place.outputs}),
            reverts=self.reverts,
            provenance=provenance,
        )

    def __mul__(self, strength: float) -> Self:
        """Scale the edit: strength 0 changes nothing, 0.5 moves every gain halfway to 1, 1 is the edit itself.

        Raises:
            InputError: a strength that is not a finite number.
        """
        amount = finite_number(strength, "a strength")
        # Not 1 + strength * (gain - 1), whose rounding would change gains at strength 1.
        gain = torch.lerp(torch.ones_like(self.gain), self.gain, amount)
        provenance = self._reversed if amount < 0 else self.provenance
        return type(self).from_terms(**{**vars(self), "gain": gain, "provenance": provenance, "edited_sha256": None})

    __rmul__ = __mul__

    def rows(self) -> list[dict[str, Any]]:
        """Return the terms as plain data: tower, layer, head, vector, gain, label."""
        return [
            {"tower": self.tower, "layer": layer, "head": head, "vector": vector, "gain": gain, "label": label}
            for (layer, head, vector), gain, label in zip(self.keys, self.gain.tolist(), self.labels, strict=True)
        ]

    @property
    def heading(self) -> str:
        """The edit in one line: the tower, the base, how many vectors, and the layers."""
        verb = "Revert of an edit" if self.reverts else "Edit"
        vectors = f"{len(self)} singular {'vector' if len(self) == 1 else 'vectors'}"
        return f"{verb} of the {self.tower} tower of {sanitize(self.base.name)}: {vectors} in layers {self.layers}"

    def __str__(self) -> str:
        lines = [self.heading]
        lines.append(f"{'layer':>5} {'head':>4} {'vector':>6} {'gain':>7}  concepts")
        for row, words in zip(self.rows(), self.first_words(len(self)), strict=True):
            label = sanitize(words)
            layer = layer_title(row["layer"], self.base.settings)
            lines.append(f"{layer:>5} {row['head']:>4} {row['vector']:>6} {row['gain']:>7.3g}  {label}")
        return "\n".join(lines)

    def first_words(self, count: int) -> list[str]:
        """Return the first labels, without the concepts of poles that are explained no better than chance."""
        if self.provenance is None:
            return list(self.labels[:count])
        explained = zip(self.provenance.explanations[:count], self.labels[:count], strict=True)
        return [poles_label(poles, quiet=True) if any(p.silent for p in poles) else label for poles, label in explained]

    def __repr__(self) -> str:
        reverts = ", reverts" if self.reverts else ""
        tower = f"the {self.tower} tower of {sanitize(self.base.name)}"
        vectors = f"{len(self)} {'vector' if len(self) == 1 else 'vectors'}"
        return f"{type(self).__name__}({vectors} of {tower}, layers {self.layers}{reverts})"

    def record(self) -> dict[str, Any]:
        """Return all but the tensors as a JSON object."""
        data = {
            "base": self.base.to_json(),
            "settings": dict(self.settings),
            "labels": list(self.labels),
            "origin": None if self.provenance is None else self.provenance.to_json(),
            "reverts": self.reverts,
            "edited_sha256": dict(self.edited_sha256 or {}),
        }
        place = self.place.to_json()
        return data if place is None else {**data, "place": place}
