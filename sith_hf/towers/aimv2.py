"""The family AIMv2: RMS norms, which do not centre, and a linear attention-pooling head before the projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.towers.attention import AttentionLayer
from sith_hf.towers.clip import ClipFamily
from sith_hf.towers.model_settings import POOL
from sith_hf.towers.readout import Readout
from sith_hf.towers.tensors import Paths, Tensors, norm_tensors, read_layer, read_layers, read_norm
from sith_hf.towers.text_tower import TextTower

_LAYER = Paths("rms_norm1", "attention.v_proj", "attention.out_proj")
_POOL = Paths(value="v_proj", out="output_proj")
_PLAIN = {"read_centred": False, "write_centred": False}


@dataclass(frozen=True)
class Aimv2Family(ClipFamily):
    """Towers with CLIP's places and RMS norms; the vision tower's pooling head is its last layer."""

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the paths of the output projections; the pooling head's is the last."""
        found = super().outputs(tower)
        return [*found, f"head.{_POOL.out}"] if hasattr(tower, "head") else found

    def settings(self, config: Any, kind: str) -> dict[str, Any]:
        """Return the settings of a tower; the number of layers is that of its encoder."""
        own = getattr(config, f"{kind}_config", config)
        found = {**super().settings(config, kind), "rms_norm_eps": own.rms_norm_eps}
        return {**found, "is_native": own.is_native, POOL: bool(own.use_head)} if kind == "vision" else found

    def layers(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> tuple[AttentionLayer, ...]:
        """Return the attention layers of a tower. Raises InputError for a companion of another width."""
        tower, _ = self.locate(model, kind)
        heads, count = tower.config.num_attention_heads, len(tower.encoder.layers)
        bias = bool(tower.config.qkv_bias)
        readout = self.readout(model, tensors, kind, companion)
        found = read_layers(tensors, "encoder.layers", count, heads, readout, _LAYER, bias=bias, **_PLAIN)
        if not hasattr(tower, "head"):
            return found
        return (*found, _read_pool(tensors, heads, self._projection(model, kind, companion), bias=bias))

    def readout(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> Readout | None:
        """Return the way to the joint space of the encoder's layers.

        A direction that every token holds passes the pooling head's attention unchanged, and the rest is linear.
        """
        found, pool = self._projection(model, kind, companion), tensors
        if found is None:
            return None
        name, matrix = found
        norm = read_norm(tensors, "rms_norm", self.locate(model, kind)[0].rms_norm.variance_epsilon, rms=True)
        if matrix.shape[1] != norm.weight.shape[0]:
            raise InputError(
                f"the companion projects from width {matrix.shape[1]}, this tower has width {norm.weight.shape[0]}: "
                "text_model must be the whole model of this tower"
            )
        outside = {name: matrix}
        title = f"rms_norm, {name.rpartition('.')[0]}"
        if kind == "text":
            return Readout(
                name=title,
                matrix=matrix,
                norm=norm,
                tensors={**norm_tensors(tensors, "rms_norm", norm), **outside},
                outside=frozenset(outside),
            )
        if tensors.get("head.v_proj.weight") is None:
            return None
        own = {part: pool.need(f"head.{part}") for part in ("v_proj.weight", "output_proj.weight", "output_proj.bias")}
        value = pool.get("head.v_proj.bias")
        out, last = own["output_proj.weight"].double(), matrix.double()
        constant = own["output_proj.bias"].double() + (0 if value is None else out @ value.double())
        own |= {} if value is None else {"v_proj.bias": value}
        return Readout(
            name="rms_norm, head, visual_projection",
            matrix=last @ out @ own["v_proj.weight"].double(),
            norm=norm,
            bias=last @ constant,
            tensors={
                **norm_tensors(tensors, "rms_norm", norm),
                **{pool.name(f"head.{part}"): tensor for part, tensor in own.items()},
                **outside,
            },
            outside=frozenset(outside),
        )

    def _projection(self, model: Any, kind: str, companion: Any | None) -> tuple[str, Tensor] | None:
        """Return the last projection and its name on disk; None without one."""
        holder = model if self.projection(model, kind) is not None else companion
        if holder is None:
            return None
        name = "visual_projection.weight" if kind == "vision" else "text_projection.weight"
        return name, Tensors.of_model(self, holder, "").need(name)


@dataclass(frozen=True, eq=False)
class Aimv2Text(TextTower):
    """AIMv2's text tower is causal, as it was trained, if it gets a mask.

    transformers drops a mask that hides no padding, and then lets every token see every other unless attention is
    eager: the embedding of a text would depend on whether another in its batch is longer. A mask of four axes is kept.
    """

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``[B, P]``, not normalised, of token numbers ``[B, T]``."""
        count, dtype = ids.shape[1], self.weight.dtype
        later = torch.full((count, count), torch.finfo(dtype).min, dtype=dtype, device=ids.device).triu(1)
        mask = later.expand(len(ids), 1, count, count)
        pooled = self.tower(input_ids=ids, attention_mask=mask, return_dict=True).pooler_output
        found: Tensor = self.projection(pooled)
        return found


def _read_pool(tensors: Tensors, heads: int, projection: tuple[str, Tensor] | None, *, bias: bool) -> AttentionLayer:
    """Read the pooling head; what its heads write meets the projection alone."""
    readout = None
    if projection is not None:
        name, matrix = projection
        readout = Readout(
            name="visual_projection", matrix=matrix, norm=None, tensors={name: matrix}, outside=frozenset({name})
        )
    return read_layer(tensors, "head", heads, readout, _POOL, norm="rms_norm", bias=bias, title="pool", **_PLAIN)


AIMV2 = Aimv2Family(
    name="aimv2",
    model_types={"aimv2": ("Aimv2Model",), "aimv2_vision_model": ("Aimv2VisionModel",)},
    kinds={"Aimv2Model": ("vision", "text"), "Aimv2VisionModel": ("vision",)},
    bare=frozenset({"Aimv2VisionModel"}),
    paths=_LAYER,
    example="apple/aimv2-large-patch14-224-lit",
    texts=Aimv2Text,
)
