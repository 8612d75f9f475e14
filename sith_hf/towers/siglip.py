"""The families SigLIP and SigLIP 2: an attention-pooling head after the encoder, and texts padded to full length.

What the pooling head writes, r, becomes the embedding r + MLP(LN r): its heads write next to the joint space. The
residual MLP is left out of the way to the joint space. Evaluating it for a direction alone, without the rest of r,
finds fewer words that are truly written, at every length of the direction (Method, sec. 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers.attention import AttentionLayer
from sith_hf.towers.clip import ClipFamily
from sith_hf.towers.model_settings import POOL
from sith_hf.towers.readout import Readout
from sith_hf.towers.tensors import Paths, Tensors, norm_tensors, read_layer, read_norm
from sith_hf.towers.text_tower import TextTower
from sith_hf.towers.tokenizer import full_length, tokenize_padded

_POOL = Paths(value="attention", out="attention.out_proj", fused=True)


@dataclass(frozen=True)
class SiglipFamily(ClipFamily):
    """SigLIP: CLIP's encoder; the pooling head is one more layer of the vision tower, its last."""

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the paths of the output projections; the pooling head's is the last."""
        found = super().outputs(tower)
        return [*found, f"head.{_POOL.out}"] if _has_pool(tower) else found

    def settings(self, config: Any, kind: str) -> dict[str, Any]:
        """Return the settings of a tower; the number of layers is that of its encoder."""
        found, own = super().settings(config, kind), getattr(config, f"{kind}_config", config)
        if kind == "vision":
            sizes = {"num_patches": own.num_patches} if hasattr(own, "num_patches") else {}
            return {**found, **sizes, POOL: bool(getattr(own, "vision_use_head", False))}
        return {name: value for name, value in found.items() if name != "eos_token_id"}  # no part of the function

    def layers(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> tuple[AttentionLayer, ...]:
        """Return the attention layers of a tower. Raises InputError for a companion without a pooling head."""
        found, (tower, _) = super().layers(model, tensors, kind, companion), self.locate(model, kind)
        return (*found, _read_pool(tensors, tower.config.num_attention_heads)) if _has_pool(tower) else found

    def readout(self, model: Any, tensors: Tensors, kind: str, companion: Any | None) -> Readout | None:
        """Return the way to the joint space of the encoder's layers; None without a pooling head."""
        tower, _ = self.locate(model, kind)
        if kind == "text":
            return _text_readout(tensors, tower)
        if _has_pool(tower):
            return _through_pool(tensors, tensors)
        if companion is None:
            return None
        whole, path = self.locate(companion, kind)
        if not _has_pool(whole):
            raise InputError(f"a {type(companion).__name__} has no pooling head: {self.advice}")
        return _through_pool(tensors, Tensors.of_model(self, companion, path))

    def has_text(self, architecture: str) -> bool:
        """Return whether the class has a text tower, which includes its head."""
        return "text" in self.kinds[architecture]

    def embed_images(self, model: Any, pixels: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return image embeddings, the output of the pooling head. Raises InputError for a tower without one."""
        pooled: Tensor | None = self.locate(model, "vision")[0](pixel_values=pixels, return_dict=True).pooler_output
        if pooled is None:
            raise InputError(
                f"this {type(model).__name__} has no pooling head (vision_use_head in config.json is false), so it "
                "embeds no images: use the whole model that it belongs to"
            )
        return pooled


@dataclass(frozen=True)
class NaflexFamily(SiglipFamily):
    """SigLIP 2 for images of any shape: its towers have SigLIP's parts, but its images are patches with a mask."""

    def image_size(self, model: Any) -> int | None:
        """Raise UnsupportedModel: images are no squares."""
        raise UnsupportedModel(
            f"a {type(model).__name__} (NaFlex) takes images as patches with a mask and shape, which is not supported; "
            "decompose and edit it, and embed images with a SigLIP 2 checkpoint of one image size (model_type siglip)"
        )

    def embed_images(self, model: Any, pixels: Tensor, projection: Tensor | None = None) -> Tensor:
        """Raise UnsupportedModel."""
        self.image_size(model)
        raise AssertionError


@dataclass(frozen=True, eq=False)
class SiglipText(TextTower):
    """SigLIP's text tower reads texts that are padded to full length, at their last position.

    Every token sees every other, so padding changes an embedding, and hiding it changes it too: rows of tokens are
    pairs, a token and whether it is seen.
    """

    causal: bool = False

    @property
    def joint_size(self) -> int:
        """The size of the joint space, P."""
        return int(self.tower.get_parameter("head.weight").shape[0])

    def settings(self, tokenizer: Any | None) -> dict[str, Any]:
        """Return the settings that are no tensors, with how the tokenizer pads; an end token means nothing here."""
        found = super().settings(tokenizer)
        found.pop("eos_token_id", None)
        if tokenizer is None:
            return found
        padding = {"padding_side": tokenizer.padding_side, "pad_token_id": tokenizer.pad_token_id}
        hidden = {"attention_mask": "attention_mask" in tokenizer.model_input_names}
        return {**found, **padding, **hidden, "max_tokens": full_length(tokenizer, self.positions)}

    def tokens(self, tokenizer: Any, texts: Sequence[str]) -> list[Any]:
        """Return the pairs of each text (:func:`sith_hf.towers.tokenizer.tokenize_padded`)."""
        return tokenize_padded(tokenizer, texts, self.tower)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``[B, P]``, not normalised, of pairs ``[B, T, 2]``."""
        numbers, seen = ids.unbind(dim=-1)
        mask = None if bool(seen.all()) else seen
        found: Tensor = self.tower(input_ids=numbers, attention_mask=mask, return_dict=True).pooler_output
        return found


def _has_pool(tower: Any) -> bool:
    # A text tower has a head of another kind.
    return hasattr(getattr(tower, "head", None), "attention")


def _read_pool(tensors: Tensors, heads: int) -> AttentionLayer:
    size = tensors.need("post_layernorm.weight").shape[0]
    same = torch.eye(size)
    readout = Readout(
        name="pool-output",
        matrix=same,
        norm=None,
        back=same,
        approximation="without the residual MLP",
    )
    return read_layer(
        tensors,
        "head",
        heads,
        readout,
        _POOL,
        norm="post_layernorm",
        write_centred=False,  # what it writes is part of the embedding, and not only read by a layer norm
        title="pool",
    )


def _through_pool(tensors: Tensors, pool: Tensors) -> Readout:
    """Return the way through the last norm's gain, and the value and output projections of a pooling head.

    The pooling head may be a companion's. What its attention would choose is left out: every token holds the direction.
    Offsets are left out, so that it is linear: they say nothing of a direction. Its pseudo-inverse amplifies noise by
    the matrix's condition, 10,000 in a trained model; the way back is the transpose without the norm's gain.
    """
    gain, value, out = (
        tensors.need("post_layernorm.weight"), pool.need(f"head.{_POOL.value}.in_proj_weight"),
        pool.need(f"head.{_POOL.out}.weight"),
    )  # fmt: skip
    if value.shape != (3 * len(gain), len(gain)):
        raise InputError(
            f"the companion's pooling head has width {out.shape[0]}, this tower has width {len(gain)}: text_model must "
            "be the whole model of this tower"
        )
    chain = out.double() @ value[2 * len(gain) :].double()
    matrix = chain * gain.double()
    outside = {
        pool.name(f"head.{_POOL.value}.in_proj_weight"): value,
        pool.name(f"head.{_POOL.out}.weight"): out,
    }
    return Readout(
        name="pool-value-output",
        matrix=matrix - matrix.mean(dim=1, keepdim=True),
        norm=None,
        back=chain.T,
        approximation="as if every token held the direction, without offsets and the residual MLP",
        tensors={tensors.name("post_layernorm.weight"): gain, **outside},
        outside=frozenset(outside),
    )


def _text_readout(tensors: Tensors, tower: Any) -> Readout:
    norm = read_norm(tensors, "final_layer_norm", tower.final_layer_norm.eps)
    head = {name: tensors.need(name) for name in ("head.weight", "head.bias")}
    return Readout(
        name="final_layer_norm, head",
        matrix=head["head.weight"],
        norm=norm,
        bias=head["head.bias"],
        tensors={
            **norm_tensors(tensors, "final_layer_norm", norm),
            **{tensors.name(name): tensor for name, tensor in head.items()},
        },
    )


def _family(kind: type[SiglipFamily], name: str, title: str, example: str) -> SiglipFamily:
    """Return one of the two families, whose classes begin with ``title``."""
    whole, vision, text = (f"{title}{part}Model" for part in ("", "Vision", "Text"))
    return kind(
        name=name,
        model_types={name: (whole,), f"{name}_vision_model": (vision,), f"{name}_text_model": (text,)},
        kinds={whole: ("vision", "text"), vision: ("vision",), text: ("text",)},
        bare=frozenset({vision, text}),
        example=example,
        lacks="its pooling head",
        texts=SiglipText,
    )


# Of SigLIP 2, checkpoints of one image size have the classes of SigLIP; those of siglip2 take any shape (NaFlex).
SIGLIP = _family(SiglipFamily, "siglip", "Siglip", "google/siglip-base-patch16-224")
SIGLIP2 = _family(NaflexFamily, "siglip2", "Siglip2", "google/siglip2-base-patch16-naflex")
