"""Classify pictures by checkpoints with transformers only, as a user without sith-hf does.

The demo runs this script in its own process. It reads ``task.json`` and ``pictures.safetensors`` in the folder given
as its argument, and writes ``answers.json`` there.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPProcessor, CLIPVisionModel
from transformers.utils import logging

BATCH = 250


def main(folder: Path) -> None:
    """Classify every set of pictures with every checkpoint."""
    logging.disable_progress_bar()
    task = json.loads((folder / "task.json").read_text())
    pictures = load_file(folder / "pictures.safetensors")
    answers: dict[str, dict[str, list[int]]] = {}
    with torch.inference_mode():
        for checkpoint in task["checkpoints"]:
            model = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
            processor = CLIPProcessor.from_pretrained(checkpoint)
            check_vision_model(checkpoint, model)
            prompts = {name: class_embeddings(model, processor, classes) for name, classes in task["classes"].items()}
            answers[checkpoint] = {}
            for name, questions in task["sets"].items():
                images = image_embeddings(model, processor, pictures[name])
                for question in questions:
                    answers[checkpoint][f"{name}:{question}"] = (images @ prompts[question].T).argmax(dim=-1).tolist()
    if "sith_hf" in sys.modules:
        raise SystemExit("sith_hf was imported, but this process must measure without it")
    (folder / "answers.json").write_text(json.dumps(answers))


def check_vision_model(checkpoint: str, model: CLIPModel) -> None:
    """Check that the vision tower loads by itself and gives the same outputs as inside the CLIPModel."""
    # transformers would list every unused weight of the text tower.
    logging.set_verbosity_error()
    vision, report = CLIPVisionModel.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    size = model.config.vision_config.image_size
    pixels = torch.linspace(-1, 1, 3 * size * size).reshape(1, 3, size, size)
    alone = vision.eval()(pixel_values=pixels).pooler_output
    inside = model.vision_model(pixel_values=pixels).pooler_output
    if report["missing_keys"] or not torch.allclose(alone, inside, atol=1e-5):
        raise SystemExit(f"{checkpoint}: CLIPVisionModel and CLIPModel give different outputs")


def class_embeddings(model: CLIPModel, processor: CLIPProcessor, classes: list[list[str]]) -> torch.Tensor:
    """Return one unit embedding for each class, the mean over its prompts, ``[classes, P]``."""
    rows = []
    for prompts in classes:
        tokens = processor(text=prompts, return_tensors="pt", padding=True)
        embeddings = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        rows.append(torch.nn.functional.normalize(embeddings.mean(dim=0), dim=-1))
    return torch.stack(rows)


def image_embeddings(model: CLIPModel, processor: CLIPProcessor, pictures: torch.Tensor) -> torch.Tensor:
    """Return unit embeddings ``[N, P]`` of uint8 pictures ``[N, height, width, 3]``."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        batch = [Image.fromarray(picture.numpy()) for picture in pictures[start : start + BATCH]]
        pixels = processor(images=batch, return_tensors="pt")
        parts.append(torch.nn.functional.normalize(model.get_image_features(**pixels).pooler_output, dim=-1))
    return torch.cat(parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
