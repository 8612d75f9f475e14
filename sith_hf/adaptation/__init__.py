"""Compare two of a kind: checkpoints head by head, with the words of the change; edit specs, decompositions and files.

``compare`` takes two towers of one architecture and measures the change of every head; ``explain_change`` explains its
leading directions; ``heat_map`` and ``report`` show it. ``load_tuned`` merges a LoRA adapter.

It imports ``evaluation``, ``checkpoint``, ``edits``, ``decomposition``, ``towers`` and what those import.
"""

from sith_hf.adaptation.adaptation import Adaptation
from sith_hf.adaptation.compare import DIRECTIONS, compare
from sith_hf.adaptation.head_change import HeadChange
from sith_hf.adaptation.heat_map import heat_map
from sith_hf.adaptation.report import report
from sith_hf.adaptation.tensors import TensorChanges, tensor_changes
from sith_hf.adaptation.tuned_model import load_tuned
from sith_hf.adaptation.words import ChangeWords, explain_change

__all__ = [
    "Adaptation",
    "ChangeWords",
    "DIRECTIONS",
    "HeadChange",
    "TensorChanges",
    "compare",
    "explain_change",
    "heat_map",
    "load_tuned",
    "report",
    "tensor_changes",
]
