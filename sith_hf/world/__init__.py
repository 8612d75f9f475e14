"""The drawn world with known ground truth: scenes, drawings, datasets, and the path of its checkpoint.

It imports ``core`` and ``errors``.
"""

from sith_hf.world.data import FIRST_SEED, world_dataset
from sith_hf.world.embedded import EMBEDDED, embedded_checkpoint
from sith_hf.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    IMAGE_SIZE,
    OBJECT_TEMPLATES,
    OBJECTS,
    SIZES,
    TASKS,
    TIED_PAIRS,
    Codes,
    caption,
    compose,
    concepts,
    decode,
    encode,
    mentions,
    names_for,
    render,
    sample_balanced,
    sample_codes,
    sample_groups,
    sample_training,
    words,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "Codes",
    "EMBEDDED",
    "FIRST_SEED",
    "IMAGE_SIZE",
    "OBJECTS",
    "OBJECT_TEMPLATES",
    "SIZES",
    "TASKS",
    "TIED_PAIRS",
    "caption",
    "compose",
    "concepts",
    "decode",
    "embedded_checkpoint",
    "encode",
    "mentions",
    "names_for",
    "render",
    "sample_balanced",
    "sample_codes",
    "sample_groups",
    "sample_training",
    "words",
    "world_dataset",
]
