"""``TextTower``: how a model is asked for the embedding of a text."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sith_hf.errors import InputError
from sith_hf.towers.model_settings import text_settings
from sith_hf.towers.tokenizer import tokenize, tokenize_with_types


@dataclass(frozen=True, eq=False)
class TextTower:
    """A text tower: token numbers in, embeddings of the joint space out.

    Attributes:
        model: the model with the tower; its ``config.text_config`` describes it.
        tower: the module that reads tokens.
        projection: the module or weight that follows; None if the tower includes it.
        causal: whether attention is causal and the embedding is read at the end token, so that tokens after it have
            no effect, and texts of different lengths can share a batch.
    """

    model: Any
    tower: nn.Module
    projection: Any
    causal: bool = True

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

    @property
    def positions(self) -> int:
        """The number of tokens that the tower can read."""
        return int(self.config.max_position_embeddings)

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
        return text_settings(self.config, tokenizer, self.positions)

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


@dataclass(frozen=True, eq=False)
class EncoderText(TextTower):
    """A text tower like BERT or RoBERTa: every token sees every other, and the embedding is read at the first token.

    A token has a type beside its number, so that rows of tokens are pairs.

    Attributes:
        roberta: whether positions are counted from behind the number of the padding token on.
    """

    causal: bool = False
    roberta: bool = False

    @property
    def positions(self) -> int:
        """The number of tokens that the tower can read. Raises InputError for a RoBERTa without a padding token."""
        if not self.roberta:
            return super().positions
        pad = self.config.pad_token_id
        if type(pad) is not int:
            raise InputError(
                f"text_config.pad_token_id in config.json is {pad!r}: correct it, as positions are counted from it on"
            )
        return super().positions - pad - 1

    def settings(self, tokenizer: Any | None) -> dict[str, Any]:
        """Return the settings that are no tensors; an end token is not among them, as it means nothing here."""
        found = super().settings(tokenizer)
        found.pop("eos_token_id", None)
        return {**found, "pad_token_id": self.config.pad_token_id} if self.roberta else found

    def tokens(self, tokenizer: Any, texts: Sequence[str]) -> list[Any]:
        """Return the pairs of each text (:func:`sith_hf.towers.tokenizer.tokenize_with_types`)."""
        return tokenize_with_types(tokenizer, texts, self.tower, self.positions)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``[B, P]``, not normalised, of pairs ``[B, T, 2]``; texts of one length each."""
        numbers, types = ids.unbind(dim=-1)
        states = self.tower(input_ids=numbers, token_type_ids=types, return_dict=True).last_hidden_state
        found: Tensor = self.projection(states[:, 0])
        return found
