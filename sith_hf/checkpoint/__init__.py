"""Write an edit into a copy of a checkpoint, verify the copy, revert it, or export the edit as a LoRA adapter.

It imports ``cards``, ``edits`` and everything below.
"""

from sith_hf.checkpoint.card import (
    card_metadata,
    effect_bytes,
    folder_card,
    folder_effect,
    folder_pictures,
    write_card,
)
from sith_hf.checkpoint.contents import SITH, contents, own_card, record
from sith_hf.checkpoint.lora import architectures, export_adapter
from sith_hf.checkpoint.verify import verify
from sith_hf.checkpoint.write import SavedCheckpoint, history, locate, measured, revert, save_edited

__all__ = [
    "SITH",
    "SavedCheckpoint",
    "architectures",
    "card_metadata",
    "contents",
    "effect_bytes",
    "export_adapter",
    "folder_card",
    "folder_effect",
    "folder_pictures",
    "history",
    "locate",
    "measured",
    "own_card",
    "record",
    "revert",
    "save_edited",
    "verify",
    "write_card",
]
