"""``EditSpec``, a self-contained edit of one tower, and ``TowerSpecs``, the edits of both towers of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sith_hf.core.fingerprint import BaseRef
from sith_hf.edits.notebook import specs_html
from sith_hf.edits.storage import EDIT_SPEC_LAYOUT, TOWER_SPECS_LAYOUT, read_parts
from sith_hf.edits.terms import Terms
from sith_hf.errors import ArtifactError, BaseMismatch, InputError, SithError
from sith_hf.files import library_versions, require, write_artifact
from sith_hf.hub import Pushable, find_artifact
from sith_hf.towers import TOWERS


@dataclass(frozen=True, eq=False, repr=False)
class EditSpec(Terms, Pushable):
    """New gains for singular vectors of one tower, with everything needed to write them into a checkpoint.

    The attributes and the arithmetic are those of its :class:`~sith_hf.edits.terms.Terms`.
    """

    def _repr_html_(self) -> str:
        return specs_html(self.parts)

    @property
    def parts(self) -> tuple[EditSpec, ...]:
        """The edit of each tower: this one. A :class:`~sith_hf.edits.TowerSpecs` has two."""
        return (self,)

    def compose(self, other: AnySpec) -> AnySpec:
        """Combine two edits of one base.

        A vector of only one edit keeps its gain; for a vector of both, gains multiply. An edit and a revert add up
        instead: equal gains cancel, and ``new.compose(old.inverse())`` changes the base edited by ``old`` to the base
        edited by ``new``. Edits of different towers become a :class:`~sith_hf.edits.TowerSpecs`.

        Raises:
            BaseMismatch: edits of different weights or families, or with different settings.
        """
        return combined(self, other)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``edit_spec.safetensors`` into ``folder``. Raises OutputError."""
        data = {**self.record(), "libraries": library_versions()}
        return write_artifact(folder, EDIT_SPEC_LAYOUT, self.tensors, data)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, token: str | None = None
    ) -> AnySpec:
        """Read a saved spec from a folder, an edited checkpoint or a Hub repository.

        Returns:
            the edit of one tower, or the :class:`~sith_hf.edits.TowerSpecs` of two.

        Raises:
            ArtifactError: the file is missing, damaged or of another version.
        """
        path = find_artifact(name_or_path, EDIT_SPEC_LAYOUT, revision, token)
        parts = tuple(cls(**fields) for fields in read_parts(path))
        for part in parts:
            require(part.keys == sorted(set(part.keys)), path, "its terms are not sorted, each occurring once")
        if len(parts) == 1:
            return parts[0]
        try:
            return TowerSpecs(parts)
        except SithError as error:
            raise ArtifactError(f"{path}: {error}") from None


@dataclass(frozen=True, eq=False, repr=False)
class TowerSpecs(Pushable):
    """The edits of two towers of one model.

    It combines, scales, inverts, saves and is written as an :class:`~sith_hf.edits.EditSpec` is; ``parts`` holds the
    edit of each tower. ``vision.compose(text)`` makes one.

    Attributes:
        parts: one edit of each tower, vision first; none is empty, and all or none are reverts.

    Raises:
        BaseMismatch: edits of different families.
        InputError: fewer than two towers, a tower twice, an empty edit, or an edit with a revert.
    """

    parts: tuple[EditSpec, ...]

    def __post_init__(self) -> None:
        towers, reverts = [part.tower for part in self.parts], {part.reverts for part in self.parts}
        if len(towers) < 2 or towers != [tower for tower in TOWERS if tower in towers]:
            raise InputError(f"expected one edit for each of two towers, vision first; got {towers}: use compose")
        if not all(self.parts) or len(reverts) > 1:
            raise InputError("an edit of a tower is empty, or one is a revert and the other is not: use compose")
        _check_family(self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __eq__(self, other: object) -> bool:
        return self.parts == other.parts if isinstance(other, TowerSpecs) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def base(self) -> BaseRef:
        """The name of the base, and the fingerprints of its tensors in all towers."""
        sha256 = {name: value for part in self.parts for name, value in part.base.sha256.items()}
        return replace(self.parts[0].base, sha256=sha256, settings={})

    @property
    def reverts(self) -> bool:
        """Whether this removes the edits."""
        return self.parts[0].reverts

    @property
    def keys(self) -> list[tuple[str, int, int, int]]:
        """The (tower, layer, head, vector) of each term."""
        return [(part.tower, *key) for part in self.parts for key in part.keys]

    @property
    def touched_keys(self) -> set[str]:
        """The canonical names of the tensors that the edits change."""
        return {name for part in self.parts for name in part.touched_keys}

    @property
    def edited_sha256(self) -> Mapping[str, str] | None:
        """Fingerprints of the changed tensors after the edit; None for an edit that was not written."""
        found = [part.edited_sha256 for part in self.parts]
        if any(prints is None for prints in found):
            return None
        return {name: value for prints in found if prints is not None for name, value in prints.items()}

    def with_edited_sha256(self, sha256: Mapping[str, str] | None) -> TowerSpecs:
        """Return the same edits with other fingerprints of the changed tensors."""
        return TowerSpecs(tuple(part.with_edited_sha256(sha256) for part in self.parts))

    def inverse(self) -> TowerSpecs:
        """Return the revert of both edits."""
        return TowerSpecs(tuple(part.inverse() for part in self.parts))

    def compose(self, other: AnySpec) -> AnySpec:
        """Combine with edits of the same base, tower by tower (:meth:`EditSpec.compose`).

        Raises:
            BaseMismatch: as for :meth:`EditSpec.compose`.
        """
        return combined(self, other)

    def __mul__(self, strength: float) -> AnySpec:
        """Scale the edits. Raises InputError for a strength that is not a finite number."""
        return combined(*(part * strength for part in self.parts))

    __rmul__ = __mul__

    def rows(self) -> list[dict[str, Any]]:
        """Return the terms as plain data: tower, layer, head, vector, gain, label."""
        return [row for part in self.parts for row in part.rows()]

    def __str__(self) -> str:
        return "\n".join(map(str, self.parts))

    def __repr__(self) -> str:
        return f"TowerSpecs({', '.join(map(repr, self.parts))})"

    def _repr_html_(self) -> str:
        return specs_html(self.parts)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write one ``edit_spec.safetensors`` into ``folder``; ``EditSpec.from_pretrained`` reads it.

        Raises:
            OutputError: it could not be written.
        """
        scaled = any(part.column is not None for part in self.parts)
        tensors: dict[str, Tensor] = {}
        for part in self.parts:
            terms = {**part.tensors, "column": part.columns} if scaled else part.tensors
            tensors |= {f"{part.tower}.{name}": tensor for name, tensor in terms.items()}
        data = {"towers": {part.tower: part.record() for part in self.parts}, "libraries": library_versions()}
        return write_artifact(folder, TOWER_SPECS_LAYOUT, tensors, data)


def combined(*specs: AnySpec) -> AnySpec:
    """Compose edits of any towers of one model, in this order.

    Returns:
        the edit of one tower, or of two; a tower whose gains cancel is left out.

    Raises:
        BaseMismatch: edits of different families, and what :meth:`EditSpec.compose` refuses.
    """
    found: dict[str, EditSpec] = {}
    for part in (part for spec in specs for part in spec.parts):
        found[part.tower] = found[part.tower].merge(part) if part.tower in found else part
    _check_family(tuple(found.values()))
    first = next(iter(found.values()))
    parts = tuple(found[tower].with_reverts(first.reverts) for tower in TOWERS if found.get(tower))
    return TowerSpecs(parts) if len(parts) > 1 else next(iter(parts), first)


def _check_family(parts: tuple[EditSpec, ...]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if first.place.family != other.place.family:
            raise BaseMismatch(
                f"one edit is of {first.place.title}, the other of {other.place.title}: only edits of one model combine"
            )


AnySpec = EditSpec | TowerSpecs
"""An edit of one tower, or of both."""
