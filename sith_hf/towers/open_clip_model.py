"""The model of an open_clip folder: modules that hold its tensors under the names of its file.

open_clip is no dependency. The modules are written from its file format: a plain pre-norm transformer in both towers,
with the query, key and value projections fused in ``attn.in_proj_weight``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling


class OpenClipVisionConfig(CLIPVisionConfig):  # type: ignore[misc]
    """The vision tower's part of an open_clip configuration.

    Beyond CLIP's: ``layer_scale``, ``pre_norm``, ``norm_after_pool`` and ``pool``.
    """

    model_type = "open_clip_vision_model"


class OpenClipTextConfig(CLIPTextConfig):  # type: ignore[misc]
    """The text tower's part of an open_clip configuration.

    Beyond CLIP's: ``layer_scale``, ``causal``, ``pool``, ``projection_bias``, and how texts are cleaned.
    """

    model_type = "open_clip_text_model"


class OpenClipConfig(CLIPConfig):  # type: ignore[misc]
    """The configuration that :func:`sith_hf.towers.open_clip_config.converted` describes."""

    model_type = "open_clip"
    sub_configs_defaults = {"vision_config": OpenClipVisionConfig, "text_config": OpenClipTextConfig}  # noqa: RUF012

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the parts of this class's own kinds."""
        for name, kind in (("vision_config", OpenClipVisionConfig), ("text_config", OpenClipTextConfig)):
            part = getattr(self, name)
            if isinstance(part, dict):
                setattr(self, name, kind(**part))
        super().__post_init__(**kwargs)


class Attention(nn.Module):
    """Self-attention with fused query, key and value projections."""

    def __init__(self, size: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * size))
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, D]`` to the same shape."""
        batch, count, size = x.shape
        parts = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = parts.view(batch, count, 3, self.heads, size // self.heads).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        found: Tensor = self.out_proj(seen.transpose(1, 2).reshape(batch, count, size))
        return found


class LayerScale(nn.Module):
    """A factor for each entry of the residual stream."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[B, T, D]``."""
        return x * self.gamma


class Activation(nn.Module):
    """The activation between the layers of an MLP, by its name in transformers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Map each entry."""
        found: Tensor = ACT2FN[self.name](x)
        return found


class Layer(nn.Module):
    """One layer: attention and MLP, each behind its norm."""

    def __init__(self, config: Any, causal: bool) -> None:
        super().__init__()
        size, wide = config.hidden_size, config.intermediate_size
        self.ln_1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attn = Attention(size, config.num_attention_heads, causal)
        self.ls_1 = LayerScale(size) if config.layer_scale else nn.Identity()
        self.ln_2 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(size, wide), "act": Activation(config.hidden_act)})
        self.mlp["c_proj"] = nn.Linear(wide, size)
        self.ls_2 = LayerScale(size) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, D]`` to the same shape."""
        x = x + self.ls_1(self.attn(self.ln_1(x)))
        wide = self.mlp["act"](self.mlp["c_fc"](self.ln_2(x)))
        found: Tensor = x + self.ls_2(self.mlp["c_proj"](wide))
        return found


class Layers(nn.Module):
    """The layers of a tower."""

    def __init__(self, config: Any, causal: bool = False) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Layer(config, causal) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, T, D]`` to the same shape."""
        for layer in self.resblocks:
            x = layer(x)
        return x


class OpenClipVision(nn.Module):
    """The vision tower, with its projection."""

    config_class = OpenClipVisionConfig

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        size, side = config.hidden_size, config.image_size // config.patch_size
        self.conv1 = nn.Conv2d(3, size, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(size))
        self.positional_embedding = nn.Parameter(torch.empty(side * side + 1, size))
        self.ln_pre = nn.LayerNorm(size, eps=config.layer_norm_eps) if config.pre_norm else nn.Identity()
        self.transformer = Layers(config)
        self.ln_post = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.proj = nn.Parameter(torch.empty(size, config.projection_dim))

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> BaseModelOutputWithPooling:
        """Return the tokens ``[B, T, D]``, and the embeddings ``[B, P]`` as ``pooler_output``."""
        patches = self.conv1(pixel_values).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.transformer(self.ln_pre(torch.cat([start, patches], dim=1) + self.positional_embedding))
        kept = tokens if self.config.norm_after_pool else self.ln_post(tokens)
        pooled = kept[:, 1:].mean(dim=1) if self.config.pool == "avg" else kept[:, 0]
        pooled = self.ln_post(pooled) if self.config.norm_after_pool else pooled
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled @ self.proj)


class OpenClipText(nn.Module):
    """The text tower, with its projection."""

    config_class = OpenClipTextConfig

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.token_embedding = nn.Embedding(config.vocab_size, size)
        self.positional_embedding = nn.Parameter(torch.empty(config.max_position_embeddings, size))
        self.transformer = Layers(config, config.causal)
        self.ln_final = nn.LayerNorm(size, eps=config.layer_norm_eps)
        if config.projection_bias:
            self.text_projection: Any = nn.Linear(size, config.projection_dim)
        else:
            self.text_projection = nn.Parameter(torch.empty(size, config.projection_dim))

    def forward(self, input_ids: Tensor, return_dict: bool = True) -> BaseModelOutputWithPooling:
        """Return the tokens ``[B, T, D]``, and the embeddings ``[B, P]`` as ``pooler_output``."""
        found = self.token_embedding(input_ids) + self.positional_embedding[: input_ids.shape[1]]
        tokens = self.ln_final(self.transformer(found))
        pooled = tokens[torch.arange(len(tokens), device=tokens.device), self.read_at(input_ids)]
        linear = isinstance(self.text_projection, nn.Linear)
        joint = self.text_projection(pooled) if linear else pooled @ self.text_projection
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=joint)

    def read_at(self, input_ids: Tensor) -> Tensor:
        """Return the place in each text at which the tower reads it, ``[B]``."""
        if self.config.pool == "argmax":
            return input_ids.argmax(dim=-1)
        if self.config.pool == "eos":
            ends: Tensor = input_ids == self.config.eos_token_id
            return ends.int().argmax(dim=-1)
        return torch.full_like(input_ids[:, 0], 0 if self.config.pool == "first" else -1)

    @property
    def eos_token_id(self) -> int:
        """The end token, in the manner of ``CLIPTextModel``: 2 means the largest token of a text."""
        return int(self.config.eos_token_id)

    @property
    def embeddings(self) -> OpenClipText:
        """The module with ``token_embedding``."""
        return self


class OpenClipModel(PreTrainedModel):  # type: ignore[misc]
    """The model of an open_clip folder.

    Its parameters have the names of the file, except that those of the text tower begin with ``text.`` here; in files
    they do so only for ``CustomTextCLIP``. ``save_pretrained`` would write a folder that no library loads:
    :func:`sith_hf.checkpoint.save_edited` writes one of open_clip.
    """

    config_class = OpenClipConfig
    base_model_prefix = ""
    _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.visual = OpenClipVision(config.vision_config)
        self.text = OpenClipText(config.text_config)

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Return image embeddings, not normalised, as ``pooler_output`` ``[B, P]``."""
        found: BaseModelOutputWithPooling = self.visual(pixel_values)
        return found

    def get_text_features(self, input_ids: Tensor) -> BaseModelOutputWithPooling:
        """Return text embeddings, not normalised, as ``pooler_output`` ``[B, P]``."""
        found: BaseModelOutputWithPooling = self.text(input_ids)
        return found

    def name_on_disk(self, name: str) -> str:
        """Return the name in the file of a parameter."""
        return name if self.config.custom_text else name.removeprefix("text.")
