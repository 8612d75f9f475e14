"""Read the decompositions that the paper's authors publish into a ``Decomposition``.

It imports ``decomposition``, ``towers`` and everything below.
"""

from sith_hf.reference.files import numbered_concepts, read_mean, read_reference
from sith_hf.reference.import_reference import FITS, import_reference

__all__ = ["FITS", "import_reference", "numbered_concepts", "read_mean", "read_reference"]
