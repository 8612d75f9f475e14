"""Compare two of a kind: checkpoints head by head, with the words of the change; edit specs, decompositions and files.

``compare`` takes two towers of one architecture and measures the change of every head; ``explain_change`` explains its
leading directions; ``heat_map`` and ``report`` show it. ``load_tuned`` merges a LoRA adapter. ``diff_specs``,
``diff_decompositions`` and ``diff_checkpoints`` list what differs.

It imports ``evaluation``, ``checkpoint``, ``edits``, ``decomposition``, ``towers`` and what those import.
"""

from sith_hf.adaptation.adaptation import Adaptation
from sith_hf.adaptation.change import change_svd
from sith_hf.adaptation.compare import DIRECTIONS, compare
from sith_hf.adaptation.diff_checkpoints import CheckpointDiff, diff_checkpoints
from sith_hf.adaptation.diff_decompositions import TURNED, DecompositionDiff, diff_decompositions
from sith_hf.adaptation.diff_specs import SpecDiff, diff_specs
from sith_hf.adaptation.head_change import HeadChange
from sith_hf.adaptation.heat_map import heat_map
from sith_hf.adaptation.report import report
from sith_hf.adaptation.tensors import TensorChanges, tensor_changes
from sith_hf.adaptation.tuned_model import load_tuned
from sith_hf.adaptation.words import ChangeWords, explain_change

__all__ = [
    "Adaptation",
    "ChangeWords",
    "CheckpointDiff",
    "DIRECTIONS",
    "DecompositionDiff",
    "HeadChange",
    "SpecDiff",
    "TURNED",
    "TensorChanges",
    "change_svd",
    "compare",
    "diff_checkpoints",
    "diff_decompositions",
    "diff_specs",
    "explain_change",
    "heat_map",
    "load_tuned",
    "report",
    "tensor_changes",
]
