"""Run by the older environment, which has no sith-hf: load checkpoints and save their outputs.

    python older.py JOBS RESULTS

JOBS is a JSON file with a list of ``{"name", "folder", "kind", "pixels", "words"}``, RESULTS the folder for a
``report.json`` and one ``outputs.safetensors``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file


def outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The model's outputs for pictures, or of a text encoder for token numbers, in float32."""
    with torch.no_grad():
        if model.config.model_type == "clip_text_model":
            ids = torch.arange(5, model.config.vocab_size, 80)
            found = getattr(model, "text_model", model)(input_ids=ids[None])
            return {name: found[name].contiguous() for name in ("last_hidden_state", "pooler_output")}
        tower = getattr(getattr(model, "clip", model), "vision_model", model)(pixel_values=pixels)
        found = {"hidden": tower.last_hidden_state, "pooled": tower.pooler_output}
        if hasattr(model, "visual_projection"):
            found["joint"] = model.visual_projection(tower.pooler_output)
        if hasattr(model, "text_model"):
            ids = torch.arange(5, model.config.text_config.vocab_size, 80)
            found["logits"] = model(pixel_values=pixels, input_ids=ids[None]).logits_per_image
            found["text"] = model.text_model(input_ids=ids[None]).last_hidden_state
    return {name: tensor.float().contiguous() for name, tensor in found.items()}


def read(folder: str, words: list[str]) -> dict[str, torch.Tensor]:
    """The outputs of a checkpoint's processor for texts and a picture."""
    picture = Image.fromarray((torch.arange(50 * 60 * 3) % 251).to(torch.uint8).reshape(50, 60, 3).numpy())
    processor = transformers.CLIPProcessor.from_pretrained(folder, use_fast=False)
    found = processor(text=words, images=picture, return_tensors="pt", padding=True)
    return {name: tensor.float().contiguous() for name, tensor in found.items()}


def run(jobs: Path, results: Path) -> None:
    """Load every checkpoint and save what it gives."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report, tensors = {}, {}
    for job in json.loads(jobs.read_text()):
        model, info = getattr(transformers, job["kind"]).from_pretrained(
            job["folder"], dtype=torch.float32, output_loading_info=True
        )
        pixels = load_file(job["pixels"])["pixels"]
        tensors |= {f"{job['name']}/{name}": tensor for name, tensor in outputs(model.eval(), pixels).items()}
        if job["words"]:
            tensors |= {f"{job['name']}/{name}": value for name, value in read(job["folder"], job["words"]).items()}
        report[job["name"]] = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys")}
    save_file(tensors, results / "outputs.safetensors")
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}
    (results / "report.json").write_text(json.dumps({"versions": versions, "loaded": report}))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
