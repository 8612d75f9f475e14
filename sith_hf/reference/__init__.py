"""Read the decompositions and the decision files that the paper's authors publish.

It imports ``decomposition``, ``gains``, ``towers`` and everything below.
"""

from sith_hf.reference.decisions import read_decisions
from sith_hf.reference.files import numbered_concepts, read_mean, read_reference
from sith_hf.reference.import_reference import FITS, import_reference

__all__ = ["FITS", "import_reference", "numbered_concepts", "read_decisions", "read_mean", "read_reference"]
