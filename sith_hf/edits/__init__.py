"""``EditSpec``: an edit as a sum of rank-one terms; building it from gains, its provenance, applying it in memory.

It imports ``gains``, ``decomposition``, ``towers`` and what those import.
"""

from sith_hf.edits.build import make_spec
from sith_hf.edits.in_memory import applied, edited_parameters
from sith_hf.edits.place import Place
from sith_hf.edits.spec import EditSpec
from sith_hf.edits.storage import EDIT_SPEC_LAYOUT

__all__ = ["EDIT_SPEC_LAYOUT", "EditSpec", "Place", "applied", "edited_parameters", "make_spec"]
