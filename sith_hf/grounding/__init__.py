"""What drives singular vectors: their coefficients on images, and the concepts that go with them.

It imports ``images``, ``decomposition``, ``towers`` and everything below these.
"""

from sith_hf.grounding.coefficients import CoefficientReader, read_where, reading_coefficients

__all__ = ["CoefficientReader", "read_where", "reading_coefficients"]
