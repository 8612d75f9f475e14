"""What drives singular vectors: their coefficients on images, the concepts that go with them, and the images that
drive them most, with the place in each image.

It imports ``images``, ``decomposition``, ``towers`` and everything below these.
"""

from sith_hf.grounding.agreement import Agreement, agreement
from sith_hf.grounding.coefficients import CoefficientReader, Vector, read_where, reading_coefficients
from sith_hf.grounding.driven_by import FDR, beyond_chance, driven_by, is_driven_by
from sith_hf.grounding.ground import STRONGEST, chosen_vectors, ground, repeats
from sith_hf.grounding.grounding import FILE, Grounding
from sith_hf.grounding.patches import TokenParts, token_parts
from sith_hf.grounding.pole import GroundedImage, GroundedPole
from sith_hf.grounding.running_top import RunningTop, SeenImage
from sith_hf.grounding.sheet import overlay
from sith_hf.grounding.view import View

__all__ = [
    "Agreement",
    "CoefficientReader",
    "FDR",
    "FILE",
    "GroundedImage",
    "GroundedPole",
    "Grounding",
    "RunningTop",
    "STRONGEST",
    "SeenImage",
    "TokenParts",
    "Vector",
    "View",
    "agreement",
    "beyond_chance",
    "chosen_vectors",
    "driven_by",
    "ground",
    "is_driven_by",
    "overlay",
    "read_where",
    "reading_coefficients",
    "repeats",
    "token_parts",
]
