"""Write an edit into a copy of a checkpoint, verify the copy, revert it, or export the edit as a LoRA adapter.

It imports ``cards``, ``edits`` and everything below.
"""

from sith_hf.checkpoint.lora import export_adapter
from sith_hf.checkpoint.verify import verify
from sith_hf.checkpoint.write import BASE_CARD, SITH, SavedCheckpoint, history, locate, other_files, revert, save_edited

__all__ = [
    "BASE_CARD",
    "SITH",
    "SavedCheckpoint",
    "export_adapter",
    "history",
    "locate",
    "other_files",
    "revert",
    "save_edited",
    "verify",
]
