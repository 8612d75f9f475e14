"""``TextTower``: how a model is asked for the embedding of a text."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sith_hf.towers.model_settings import text_settings
from sith_hf.towers.tokenizer import tokenize


@dataclass(frozen=True, eq=False)
class TextTower:
    """A text tower: token numbers in, embeddings of the joint space out.

    Attributes:
        model: the model with the tower; its ``config.text_config`` describes it.
        tower: the module that reads tokens.
        projection: the module or weight that follows; None if the tower includes it.
        causal: whether attention is causal and the embedding is read at the end token, so that tokens after it have
            no effect, and texts of different lengths can share a batch.
        no_tokenizer: what to do if the checkpoint has no tokenizer.
    """

    model: Any
    tower: nn.Module
    projection: Any
    causal: bool = True
    no_tokenizer: str = "the text model has no tokenizer: use a folder or Hub id with one"

    @property
    def weight(self) -> Tensor:
        """A parameter of the tower: its device and dtype are the tower's."""
        return self.projection.weight.detach() if self.projection is not None else next(self.tower.parameters())

    @property
    def joint_size(self) -> int:
        """The size of the joint space, P."""
        return int(self.projection.weight.shape[0])

    @property
    def config(self) -> Any:
        """The configuration of the tower."""
        return getattr(self.model.config, "text_config", self.model.config)

    def tensors(self) -> Mapping[str, Tensor]:
        """Return every tensor that decides an embedding, by name."""
        found: dict[str, Tensor] = dict(self.tower.state_dict())
        if self.projection is not None:
            found["projection"] = self.projection.weight
            if getattr(self.projection, "bias", None) is not None:
                found["projection.bias"] = self.projection.bias
        return found

    def settings(self, tokenizer: Any | None) -> dict[str, Any]:
        """Return the settings that are no tensors, with those of the tokenizer if there is one."""
        return text_settings(self.config, tokenizer)

    def tokens(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text (:func:`sith_hf.towers.tokenizer.tokenize`)."""
        return tokenize(tokenizer, texts, self.tower)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``[B, P]``, not normalised, of token numbers ``[B, T]``."""
        pooled = self.tower(input_ids=ids, return_dict=True).pooler_output
        found: Tensor = pooled if self.projection is None else self.projection(pooled)
        return found

    def float32(self) -> TextTower:
        """Return the tower in float32: itself, or a copy of a half-precision tower."""
        if self.weight.dtype not in (torch.bfloat16, torch.float16):
            return self
        projection = None if self.projection is None else copy.deepcopy(self.projection).float()
        return replace(self, tower=copy.deepcopy(self.tower).float(), projection=projection)
