"""``DictionaryIndex``: a dictionary checked once and, if that is faster, rounded to int8, for many pursuits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.pursuit.atoms import Atoms, as_atoms, blocks
from sith_hf.pursuit.int8 import Int8Atoms, int8_is_faster

# How far an atom's length may be from one; rounding to bfloat16 stays well within.
UNIT = 1e-2
# The fewest products with the dictionary (vectors times steps) for which rounding it pays off.
MIN_PRODUCTS = 128
# The fewest numbers in a dictionary for which rounding it pays off.
MIN_NUMBERS = 2**22


@dataclass(frozen=True, eq=False)
class DictionaryIndex:
    """Checked atoms, all finite and of unit length.

    Attributes:
        atoms: the dictionary.
        device: where products with the dictionary run.
        longest: a bound on the length of its longest atom.
        int8: the rounded dictionary, if that is faster.
    """

    atoms: Atoms
    device: torch.device
    longest: float
    int8: Int8Atoms | None


def build_index(
    atoms: Tensor | Atoms,
    *,
    device: torch.device | str | None = None,
    products: int | None = None,
    block_size: int | None = None,
) -> DictionaryIndex:
    """Check and round a dictionary once, for many calls of :class:`~sith_hf.pursuit.Pursuit`.

    Args:
        atoms: ``[M, P]`` unit rows.
        device: the device of the vectors; that of the atoms when None.
        products: the expected number of products with the dictionary, vectors times steps; many when None.
        block_size: as for ``Pursuit``.

    Raises:
        InputError: an atom that is not of unit length or not finite.
    """
    source = as_atoms(atoms)
    # A tensor has the device with its index: "cuda" is where vectors on "cuda:0" are.
    where = torch.empty(0, device=source.device if device is None else device).device
    longest = source.longest
    if longest is None:
        length = torch.cat([torch.linalg.vector_norm(block.detach(), dim=1).cpu() for block in blocks(source)])
        refuse_rows("atoms", ~torch.isfinite(length), "is not finite")
        refuse_rows("atoms", (length - 1).abs() > UNIT, "does not have unit length; normalise the dictionary first")
        longest = float(length.max())
    int8 = None
    if worth_rounding(source.shape, products) and int8_is_faster(where, torch.get_num_threads()):
        try:
            # Autocast would round products to 16 bits, beyond the proved error.
            with torch.no_grad(), torch.autocast(where.type, enabled=False):
                int8 = Int8Atoms.of(source, where, block_size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
    return DictionaryIndex(source, where, longest, int8)


def worth_rounding(shape: torch.Size, products: int | None) -> bool:
    """Return whether rounding a dictionary to int8 saves time."""
    return shape.numel() >= MIN_NUMBERS and (products is None or products >= MIN_PRODUCTS)


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch means too little memory, on any device."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def refuse_rows(name: str, bad: Tensor, what: str) -> None:
    """Raise InputError for the first row of ``name`` where ``bad`` ``[N]`` is true."""
    if bool(bad.any()):
        raise InputError(f"{name}[{int(bad.int().argmax())}] {what} ({int(bad.sum())} of {len(bad)} rows)")
