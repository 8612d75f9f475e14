"""``prepared``: a dictionary looked through once, and rounded to eight bits where that pays, for many pursuits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.pursuit.atoms import READ, Atoms, as_atoms
from sith_hf.pursuit.int8 import Int8Atoms, pays

UNIT = 1e-2
"""How far an atom's length may be from one; what rounding to bfloat16 does is well inside."""

WORTH = 128
"""Products with the dictionary (vectors times steps) from which on rounding it first is the shorter way."""

SMALL = 2**22
"""Numbers in a dictionary below which everything is so fast that rounding it is not worth the trouble."""


@dataclass(frozen=True, eq=False)
class DictionaryIndex:
    """Atoms that were looked through: all finite, all of unit length.

    Attributes:
        atoms: the dictionary.
        device: where products with it run.
        longest: a bound on the length of its longest atom.
        coarse: the dictionary in eight bits, where that pays.
    """

    atoms: Atoms
    device: torch.device
    longest: float
    coarse: Int8Atoms | None


def prepared(
    atoms: Tensor | Atoms,
    *,
    device: torch.device | str | None = None,
    products: int | None = None,
    block_size: int | None = None,
) -> DictionaryIndex:
    """Look through a dictionary once for many calls of :class:`~sith_hf.pursuit.Pursuit` with vectors on ``device``.

    Args:
        atoms: ``[M, P]`` unit rows.
        device: where the vectors will be; that of the atoms when None.
        products: how many products with the dictionary are to come, vectors times steps; many when None.
        block_size: as for ``Pursuit``.

    Raises:
        InputError: an atom does not have unit length or is not finite.
    """
    source = as_atoms(atoms)
    where = source.device if device is None else torch.device(device)
    longest = source.longest
    if longest is None:
        longest = _longest(source)
    coarse = None
    if pays_to_round(source.shape, products) and pays(where, torch.get_num_threads()):
        try:
            # Under autocast, products would be rounded to sixteen bits and their errors no longer be bounded.
            with torch.no_grad(), torch.autocast(where.type, enabled=False):
                coarse = Int8Atoms.of(source, where, block_size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
    return DictionaryIndex(source, where, longest, coarse)


def pays_to_round(shape: torch.Size, products: int | None) -> bool:
    """Whether a dictionary is large enough, and asked often enough, to be rounded to eight bits first."""
    return shape.numel() >= SMALL and (products is None or products >= WORTH)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory, on whatever device, was not to be had."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def refuse_rows(name: str, bad: Tensor, what: str) -> None:
    """Raise InputError about the first row of ``name`` that is ``bad`` ``[N]``, if any is."""
    if bool(bad.any()):
        raise InputError(f"{name}[{int(bad.int().argmax())}] {what} ({int(bad.sum())} of {len(bad)} rows)")


def _longest(atoms: Atoms) -> float:
    size = max(1, READ // max(atoms.shape[1], 1))
    starts = range(0, atoms.shape[0], size)
    blocks = (atoms.block(start, min(start + size, atoms.shape[0])).detach() for start in starts)
    length = torch.cat([torch.linalg.vector_norm(block, dim=1).cpu() for block in blocks])
    refuse_rows("atoms", ~torch.isfinite(length), "is not finite")
    refuse_rows("atoms", (length - 1).abs() > UNIT, "does not have unit length; normalise the dictionary first")
    return float(length.max())
