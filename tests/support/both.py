"""A tiny CLIPModel on disk with an edit of each tower, and the model written out in float64."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPProcessor, CLIPTextConfig

from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec
from sith_hf.pursuit import Pursuit
from tests.support.made import tiny_concepts
from tests.support.tiny import byte_tokenizer, clip_model, image_processor

PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[512, 5, 60, 7, 513], [512, 99, 513, 513, 513]])


class Both(NamedTuple):
    """A checkpoint, and for each tower an editor with a decomposition, and an edit."""

    base: Path
    vision: SithEditor
    text: SithEditor
    of_vision: EditSpec
    of_text: EditSpec


def save_whole(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel with tokenizer and image processor."""
    clip_model(seed).save_pretrained(folder)
    CLIPProcessor(image_processor(), byte_tokenizer(folder.with_name(f"{folder.name}-bytes"))).save_pretrained(folder)
    return folder


def save_text(folder: Path, kind: Any, source: CLIPModel) -> Path:
    """A ``CLIPTextModel`` or ``CLIPTextModelWithProjection`` with the weights of a whole model, as saved today."""
    model = kind(CLIPTextConfig(**source.config.text_config.to_dict()))
    getattr(model, "text_model", model).load_state_dict(source.text_model.state_dict())
    if hasattr(model, "text_projection"):
        model.text_projection.load_state_dict(source.text_projection.state_dict())
    model.save_pretrained(folder)
    return folder


def editor_of(folder: Path, tower: str, **settings: Any) -> SithEditor:
    """An editor of a tower with a decomposition of all layers."""
    made = SithEditor.from_pretrained(folder, tower=tower)
    made.decompose(tiny_concepts(), pursuit=Pursuit(method="top-k", sparsity=3), **settings)  # the fastest
    return made


def make_both(folder: Path, seed: int = 0) -> Both:
    """A checkpoint with edits of both towers in ``folder``."""
    base = save_whole(folder / "base", seed)
    vision, text = editor_of(base, "vision"), editor_of(base, "text")
    of_vision = vision.edit().vectors(0.0, layers=[-1], vectors=[0, 1]).vectors(3.0, layers=[0], heads=[1]).spec
    of_text = text.edit().vectors(-1.0, layers=[-1], heads=[0], vectors=[0, 2]).vectors(0.0, layers=[0], heads=[1]).spec
    return Both(base, vision, text, of_vision, of_text)


def explicit(model: Any, tower: str, decomposition: Decomposition, gains: dict[tuple[int, int, int], float]) -> Any:
    """A float64 copy of a CLIPModel whose value-output matrices have the gains, by a literal SVD of each head.

    Each head's matrix M = W_O C W_V of the folded and centred layer becomes M + sum (g - 1) s w r^T, added behind the
    layer's own output as a second path: nothing of the edited ``out_proj`` is read.
    """
    found = copy.deepcopy(model).double()
    for number, layer in enumerate(getattr(found, f"{tower}_model").encoder.layers):
        here = {key[1:]: gain for key, gain in gains.items() if key[0] == number}
        if here:
            layer.self_attn = Changed(layer, decomposition, here)
    return found.eval()


class Changed(nn.Module):
    """Self-attention whose heads write through explicit edited matrices."""

    def __init__(self, layer: Any, decomposition: Decomposition, gains: dict[tuple[int, int], float]) -> None:
        super().__init__()
        self.inner, norm = layer.self_attn, layer.layer_norm1
        self.heads, self.size = self.inner.num_heads, self.inner.head_dim
        width = self.heads * self.size
        fold, centre = (bool(decomposition.settings[name]) for name in ("fold", "centre"))
        eye = torch.eye(width, dtype=torch.float64)
        flat = eye - 1 / width if centre else eye
        self.norm, self.deltas = norm, {}
        for head in {head for head, _ in gains}:
            part = slice(head * self.size, (head + 1) * self.size)
            value = self.inner.v_proj.weight[part].detach()
            value = value * norm.weight.detach() if fold else value
            value = value @ flat if fold else value
            matrix = flat @ self.inner.out_proj.weight[:, part].detach() @ value
            left, strength, right = torch.linalg.svd(matrix)
            self.deltas[head] = sum(
                (gain - 1) * strength[i] * torch.outer(left[:, i], right[i])
                for (at, i), gain in gains.items()
                if at == head
            )
        self.fold = fold

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        """Attend, and add what the changed matrices write: to each head's mean of the inputs that it attends to."""
        kwargs["output_attentions"] = True
        found, weights = self.inner(hidden_states, *args, **kwargs)
        inputs = hidden_states
        if self.fold:
            inputs = (hidden_states - self.norm.bias) / self.norm.weight
        for head, delta in self.deltas.items():
            found = found + weights[:, head] @ inputs @ delta.T
        return found, weights
