"""Read the decompositions and the decision files that the paper's authors publish.

It imports ``decomposition``, ``gains``, ``towers`` and everything below.
"""

from sith_hf.reference.decisions import read_decisions
from sith_hf.reference.files import read_reference
from sith_hf.reference.fit import FITS
from sith_hf.reference.import_reference import import_reference

__all__ = ["FITS", "import_reference", "read_decisions", "read_reference"]
