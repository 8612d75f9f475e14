"""Checkpoints of LLaVA and of towers without text for the older transformers, edited by number."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sith_hf.editor import SithEditor
from tests.support import vision_models as make

MODELS = {
    "Dinov2Model": make.dinov2,
    "Dinov2WithRegistersModel": make.dinov2_registers,
    "DINOv3ViTModel": make.dinov3,
}


def edited(base: Path) -> Path:
    """An edit of a checkpoint, beside it."""
    editor = SithEditor.from_pretrained(base)
    editor.decompose(None)
    spec = editor.edit().vectors(-1.0, layers=[0, 1], heads=[0, 1]).spec
    return editor.save_pretrained(base.with_name("edited"), spec).folder


def write(work: Path) -> Iterator[dict[str, Any]]:
    """Write the checkpoints; the fields of a job for each."""
    for kind, maker in MODELS.items():
        base = work / kind / "base"
        maker().save_pretrained(base)
        yield {"name": kind, "folder": edited(base), "kind": kind, "size": 16, "base": base}
    made = make.dinov2(use_swiglu_ffn=True)
    made.save_pretrained(work / "swiglu" / "base")
    base = work / "swiglu" / "base"
    yield {"name": "Dinov2Model, swiglu", "folder": edited(base), "kind": "Dinov2Model", "size": 16, "base": base}
    for tower in ("clip", "siglip"):
        fresh, base = work / f"llava-{tower}" / "fresh", work / f"llava-{tower}" / "base"
        make.llava_model(0, tower).save_pretrained(fresh)
        shutil.copytree(fresh, base)
        # The names that 4.57 writes and loads; it loads none of the tower's that 5 writes.
        tensors = load_file(fresh / "model.safetensors")
        older = {key.replace("vision_tower.", "vision_tower.vision_model."): tensor for key, tensor in tensors.items()}
        save_file(older, base / "model.safetensors", {"format": "pt"})
        job = {"kind": "LlavaForConditionalGeneration", "size": 16, "base": base}
        yield {"name": f"LLaVA, {tower}", "folder": edited(base), **job}
        yield {"name": f"control: LLaVA, {tower}, saved by transformers 5", "folder": fresh, **job, "sound": False}
