"""What drives singular vectors: their coefficients on images, and the concepts that go with them.

It imports ``images``, ``decomposition``, ``towers`` and everything below these.
"""

from sith_hf.grounding.coefficients import CoefficientReader, read_where, reading_coefficients
from sith_hf.grounding.driven_by import FDR, beyond_chance, driven_by, is_driven_by

__all__ = [
    "CoefficientReader",
    "FDR",
    "beyond_chance",
    "driven_by",
    "is_driven_by",
    "read_where",
    "reading_coefficients",
]
