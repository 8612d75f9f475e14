"""Tiny folders of open_clip, written by hand, and an independent forward of its format; no open_clip is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, multi_head_attention_forward, normalize

from tests.support.tiny import byte_tokenizer

VISION = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 16, "mlp_ratio": 1.5}
TEXT = {"layers": 2, "width": 16, "heads": 2, "vocab_size": 514, "context_length": 77}
SIZE = 24
PREPROCESS = {"size": 16, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic"}
WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


def _block(stem: str, width: int, wide: int, scale: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (wide, width), "mlp.c_fc.bias": (wide,),
        "mlp.c_proj.weight": (width, wide), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    if scale:
        found |= {"ls_1.gamma": (width,), "ls_2.gamma": (width,)}
    return {stem + name: shape for name, shape in found.items()}


def shapes(model: Mapping[str, Any], *, prefix: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a model with this ``model_cfg``; those of the text tower begin with ``prefix``."""
    vision, text = model["vision_cfg"], model["text_cfg"]
    width, patch = vision["width"], vision["patch_size"]
    found: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((vision["image_size"] // patch) ** 2 + 1, width),
        "visual.ln_post.weight": (width,), "visual.ln_post.bias": (width,), "visual.proj": (width, SIZE),
    }  # fmt: skip
    if not vision.get("no_ln_pre"):
        found |= {"visual.ln_pre.weight": (width,), "visual.ln_pre.bias": (width,)}
    for n in range(vision["layers"]):
        wide, scale = int(width * vision.get("mlp_ratio", 4.0)), "ls_init_value" in vision
        found |= _block(f"visual.transformer.resblocks.{n}.", width, wide, scale)
    width, below = text["width"], {}
    below |= {"token_embedding.weight": (text["vocab_size"], width), "positional_embedding": (77, width)}
    below |= {"ln_final.weight": (width,), "ln_final.bias": (width,), "text_projection": (width, SIZE)}
    if text.get("proj_bias"):
        del below["text_projection"]
        below |= {"text_projection.weight": (SIZE, width), "text_projection.bias": (SIZE,)}
    for n in range(text["layers"]):
        below |= _block(f"transformer.resblocks.{n}.", width, 4 * width, "ls_init_value" in text)
    return found | {prefix + name: shape for name, shape in below.items()} | {"logit_scale": ()}


def open_clip_folder(
    folder: Path,
    *,
    seed: int = 0,
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    weights: str = WEIGHTS,
    prefix: str | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: bool = True,
    **model: Any,
) -> Path:
    """A random model in an open_clip folder. ``vision``, ``text`` and ``model`` change its ``model_cfg``."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"embed_dim": SIZE, "vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}, **model}
    random = torch.Generator().manual_seed(seed)
    if prefix is None:
        prefix = "text." if cfg.get("custom_text") else ""
    state = {}
    for name, shape in shapes(cfg, prefix=prefix).items():
        noise = torch.randn(shape, generator=random)
        if (".ln_" in name and name.endswith("weight")) or name == "ln_final.weight" or name.endswith("gamma"):
            noise = 1 + 0.3 * noise
        elif len(shape) == 1:
            noise = 0.2 * noise
        elif len(shape) > 1:
            noise = noise / shape[-1] ** 0.5
        state[name] = noise.to(dtype)
    save_file(state, folder / weights, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": PREPROCESS}, indent=2))
    if tokenizer:
        byte_tokenizer(folder)
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    """The content of ``open_clip_config.json``."""
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found


def state_of(folder: Path, weights: str = WEIGHTS) -> dict[str, Tensor]:
    """The tensors of a folder in float64."""
    return {name: tensor.double() for name, tensor in load_file(folder / weights).items()}


class Forward:
    """What open_clip computes from the tensors of a folder, written with torch's own functional attention."""

    def __init__(self, folder: Path, state: Mapping[str, Tensor] | None = None, weights: str = WEIGHTS) -> None:
        self.cfg = config_of(folder)["model_cfg"]
        self.state = dict(state or state_of(folder, weights))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-5)

    def _layers(self, x: Tensor, stem: str, part: Mapping[str, Any], heads: int, mask: Tensor | None) -> Tensor:
        s = self.state
        for n in range(part["layers"]):
            at = f"{stem}transformer.resblocks.{n}"
            y = self._norm(x, f"{at}.ln_1").transpose(0, 1)
            y, _ = multi_head_attention_forward(
                y, y, y, y.shape[-1], heads, s[f"{at}.attn.in_proj_weight"], s[f"{at}.attn.in_proj_bias"],
                None, None, False, 0.0, s[f"{at}.attn.out_proj.weight"], s[f"{at}.attn.out_proj.bias"],
                need_weights=False, attn_mask=mask,
            )  # fmt: skip
            x = x + y.transpose(0, 1) * s.get(f"{at}.ls_1.gamma", torch.ones(()))
            y = self._norm(x, f"{at}.ln_2") @ s[f"{at}.mlp.c_fc.weight"].T + s[f"{at}.mlp.c_fc.bias"]
            y = y * torch.sigmoid(1.702 * y) if self.cfg.get("quick_gelu") else gelu(y)
            y = y @ s[f"{at}.mlp.c_proj.weight"].T + s[f"{at}.mlp.c_proj.bias"]
            x = x + y * s.get(f"{at}.ls_2.gamma", torch.ones(()))
        return x

    def images(self, pixels: Tensor) -> Tensor:
        """Embeddings of pixels ``[B, 3, S, S]``, normalised."""
        s, part = self.state, self.cfg["vision_cfg"]
        x = torch.nn.functional.conv2d(pixels.double(), s["visual.conv1.weight"], stride=part["patch_size"])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([s["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + s["visual.positional_embedding"]
        x = x if part.get("no_ln_pre") else self._norm(x, "visual.ln_pre")
        x = self._layers(x, "visual.", part, part["width"] // part["head_width"], None)
        average = part.get("pool_type", "tok") == "avg"
        if part.get("final_ln_after_pool"):
            x = self._norm(x[:, 1:].mean(1) if average else x[:, 0], "visual.ln_post")
        else:
            x = self._norm(x, "visual.ln_post")
            x = x[:, 1:].mean(1) if average else x[:, 0]
        return normalize(x @ s["visual.proj"], dim=-1)

    def texts(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Embeddings of tokens, each text padded with zeros to the context length, normalised."""
        part, full = self.cfg["text_cfg"], self.cfg["text_cfg"]["context_length"]
        stem = "text." if "text.token_embedding.weight" in self.state else ""
        s = {name.removeprefix(stem): tensor for name, tensor in self.state.items()}
        numbers = torch.tensor([[*row, *[0] * (full - len(row))] for row in ids])
        x = s["token_embedding.weight"][numbers] + s["positional_embedding"]
        mask = None if part.get("no_causal_mask") else torch.full((full, full), -torch.inf).triu(1).double()
        x = self._norm(self._layers(x, stem, part, part["heads"], mask), f"{stem}ln_final")
        pool = part.get("pool_type", "argmax")
        at = numbers.argmax(1) if pool == "argmax" else torch.full((len(ids),), 0 if pool == "first" else full - 1)
        if pool == "eos":
            at = (numbers == part["eos_id"]).int().argmax(1)
        x = x[torch.arange(len(ids)), at]
        if part.get("proj_bias"):
            return normalize(x @ s["text_projection.weight"].T + s["text_projection.bias"], dim=-1)
        return normalize(x @ s["text_projection"], dim=-1)
