"""Read the decompositions that the paper's authors publish into a ``Decomposition``.

It imports ``decomposition``, ``towers`` and everything below.
"""

from sith_hf.reference.files import read_reference
from sith_hf.reference.fit import FITS
from sith_hf.reference.import_reference import import_reference

__all__ = ["FITS", "import_reference", "read_reference"]
