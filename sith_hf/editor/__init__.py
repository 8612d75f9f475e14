"""``SithEditor``, one object from a checkpoint to an edited checkpoint: a thin face over the rooms below.

It imports ``grounding``, ``evaluation``, ``images``, ``publish``, ``checkpoint`` and everything below.
"""

from sith_hf.editor.comparison import Comparison
from sith_hf.editor.edit import Edit
from sith_hf.editor.editor import SithEditor
from sith_hf.editor.evidence import check_images, repeats_on
from sith_hf.editor.proof import Proof

__all__ = ["Comparison", "Edit", "Proof", "SithEditor", "check_images", "repeats_on"]
