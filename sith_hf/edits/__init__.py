"""``EditSpec`` and ``TowerSpecs``: edits as sums of rank-one terms; from gains to them, and applying them in memory.

It imports ``gains``, ``decomposition``, ``towers`` and what those import.
"""

from sith_hf.edits.build import make_spec
from sith_hf.edits.effect import EFFECT, EditEffect, EffectImages, NamedEffect, edit_sha256
from sith_hf.edits.in_memory import applied, edited_parameters
from sith_hf.edits.place import Place
from sith_hf.edits.slopes import gain_slopes
from sith_hf.edits.spec import AnySpec, EditSpec, TowerSpecs, combined
from sith_hf.edits.storage import EDIT_SPEC_LAYOUT, read_spec_file
from sith_hf.edits.terms import Terms

__all__ = [
    "EDIT_SPEC_LAYOUT",
    "EFFECT",
    "AnySpec",
    "EditEffect",
    "EditSpec",
    "EffectImages",
    "NamedEffect",
    "Place",
    "Terms",
    "TowerSpecs",
    "applied",
    "combined",
    "edit_sha256",
    "edited_parameters",
    "gain_slopes",
    "make_spec",
    "read_spec_file",
]
