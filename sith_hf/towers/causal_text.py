"""Embed texts with a causal text tower: compute what they share once, and the end of the last layer where it is read.

Attention is causal, so the state of a token depends on the tokens up to it. Texts with a common beginning (the begin
token, the words of a template, a common first word) share its states, as the nodes of a prefix tree. The embedding is
read at one token, so tokens after it are left out, and in the last layer other tokens only give keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

# States in one batch: few enough for the cache of a processor, enough for parallel work on each layer.
BATCH_STATES = 2048

# In checkpoints of 2021, this end token means that the text ends at its largest token (CLIPTextModel.forward).
_LARGEST = 2
# Model types of transformers whose text towers have CLIP's parts and forward.
_KNOWN = ("clip", "clipseg", "metaclip_2")


def end_token(tower: Any) -> Any:
    """Return the number of a text tower's end token; that of 2021 for a tower that knows none."""
    return getattr(tower, "eos_token_id", _LARGEST)


def reads_largest(tower: Any) -> bool:
    """Return whether a text tower reads the embedding at the largest token of a text, and not at its end token."""
    return bool(end_token(tower) == _LARGEST and _model_type(tower) != "metaclip_2")


def read_position(tower: Any, tokens: Sequence[int]) -> int:
    """Return the position at which a causal text tower reads the embedding; without an end token it is the first."""
    end = max(tokens) if reads_largest(tower) else end_token(tower)
    return tokens.index(end) if end in tokens else 0


@dataclass(frozen=True, eq=False)
class CausalText:
    """A causal text tower with CLIP's parts, in evaluation mode, and the projection that follows.

    Attributes:
        tower: the module that reads tokens, such as a ``CLIPTextModel``.
        projection: the module from the tower's width to the joint space.
    """

    tower: Any
    projection: nn.Module

    @classmethod
    def of(cls, tower: Any, projection: Any) -> CausalText | None:
        """Return the fast form of a text tower; None if only its own forward computes what it does.

        That is so for a tower of another family, with hooks, a compiled or replaced forward, layers of other libraries,
        an attention function of its own, or tensors on several devices.
        """
        known = _model_type(tower) in _KNOWN and hasattr(tower, "encoder") and len(tower.encoder.layers) > 0
        return cls(tower, projection) if known and is_plain(tower, projection) else None

    def batches(self, tokens: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
        """Return the numbers of the texts of each batch: texts with a common beginning are in the same, if they fit.

        A batch has at most ``limit`` tokens, counting those that texts share: keys and values are gathered for each.
        """
        read = [self._read(ids) for ids in tokens]
        batches: list[list[int]] = [[]]
        states = count = 0
        before: Sequence[int] = []
        for number in sorted(range(len(read)), key=lambda number: (read[number], number)):
            ids = read[number]
            new = len(ids) - _common(before, ids)
            if batches[-1] and (states + new > BATCH_STATES or count + len(ids) > limit):
                batches.append([])
                states, count, new = 0, 0, len(ids)
            batches[-1].append(number)
            states, count, before = states + new, count + len(ids), ids
        return batches

    def embed(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Return the embeddings ``[B, P]`` of texts, not normalised, as the tower's own forward and projection do."""
        tree = _PrefixTree.of([self._read(ids) for ids in tokens], next(self.tower.parameters()).device)
        # One row for each state: the module gives every row its positions from the front.
        states = self.tower.embeddings(input_ids=tree.tokens[:, None], position_ids=tree.depths[:, None])[:, 0]
        *layers, last = self.tower.encoder.layers
        for layer in layers:
            states = _after(layer, states, tree)
        states = _after(last, states, tree, ends=True)
        found: Tensor = self.projection(self.tower.final_layer_norm(states))
        return found[tree.places]

    def _read(self, tokens: Sequence[int]) -> list[int]:
        return list(tokens[: read_position(self.tower, tokens) + 1])


@dataclass(frozen=True, eq=False)
class _Texts:
    """Some texts of similar length, as numbers of beginnings.

    Attributes:
        paths: the beginnings of each text, the last one repeated up to the longest text, ``[B, T]`` int64.
        inside: whether a beginning is not a repetition, ``[B, 1, 1, T]`` bool.
    """

    paths: Tensor
    inside: Tensor


@dataclass(frozen=True, eq=False)
class _PrefixTree:
    """The N distinct beginnings of B texts.

    Attributes:
        tokens, depths: the last token of each beginning and its position, ``[N]`` int64.
        groups: the texts, each in one group. A few groups have fewer parallel regions than one for each length.
        ends: the whole of each text, in the order of ``groups``, ``[B]`` int64.
        firsts: for each beginning, one of its places in the flattened paths of all groups, ``[N]`` int64.
        places: for each text, its place in ``ends``, ``[B]`` int64.
    """

    tokens: Tensor
    depths: Tensor
    groups: tuple[_Texts, ...]
    ends: Tensor
    firsts: Tensor
    places: Tensor

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], device: torch.device) -> _PrefixTree:
        """Return the tree of some texts, each of one token or more."""
        numbers: dict[tuple[int, int], int] = {}  # of the beginning before the last token, and that token
        depths: list[int] = []
        by_size: dict[int, list[tuple[int, list[int]]]] = {}
        for place, ids in enumerate(texts):
            path: list[int] = []
            for depth, token in enumerate(ids):
                key = (path[-1] if path else -1, token)
                if key not in numbers:
                    numbers[key] = len(numbers)
                    depths.append(depth)
                path.append(numbers[key])
            by_size.setdefault(len(path).bit_length(), []).append((place, path))
        ordered = [by_size[size] for size in sorted(by_size)]
        padded = [_padded([path for _, path in group]) for group in ordered]
        flat = [number for paths in padded for path in paths for number in path]
        firsts = dict(zip(reversed(flat), range(len(flat) - 1, -1, -1), strict=True))

        def tensor(values: Sequence[Any]) -> Tensor:
            return torch.tensor(values, device=device)

        def group(paths: list[list[int]], lengths: list[int]) -> _Texts:
            inside = torch.arange(len(paths[0]), device=device) < tensor(lengths)[:, None]
            return _Texts(tensor(paths), inside[:, None, None])

        return cls(
            tokens=tensor([token for _, token in numbers]),
            depths=tensor(depths),
            groups=tuple(group(p, [len(path) for _, path in o]) for p, o in zip(padded, ordered, strict=True)),
            ends=tensor([path[-1] for paths in padded for path in paths]),
            firsts=tensor([firsts[number] for number in range(len(numbers))]),
            places=tensor([place for group in ordered for place, _ in group]).argsort(),
        )


def _padded(paths: list[list[int]]) -> list[list[int]]:
    width = max(map(len, paths))
    return [path + path[-1:] * (width - len(path)) for path in paths]


def _after(layer: Any, states: Tensor, tree: _PrefixTree, *, ends: bool = False) -> Tensor:
    """Return the states after a layer, ``[N, D]``; with ``ends`` only those of whole texts, ``[B, D]``."""
    attention, normed = layer.self_attn, layer.layer_norm1(states)
    keys, values = attention.k_proj(normed), attention.v_proj(normed)
    if ends:
        states, normed = states[tree.ends], normed[tree.ends]
    attended = _attended(attention, attention.q_proj(normed), keys, values, tree, ends)
    states = states + attention.out_proj(attended)
    return states + layer.mlp(layer.layer_norm2(states))  # type: ignore[no-any-return]


def _attended(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, tree: _PrefixTree, ends: bool) -> Tensor:
    """Return what each query reads from its beginnings, ``[N, D]``, or with ``ends`` ``[B, D]``."""
    found, start = [], 0
    for group in tree.groups:
        paths = group.paths
        asking = torch.arange(start, start + len(paths), device=paths.device)[:, None] if ends else paths
        start += len(paths)
        query, key, value = (
            tensor[index].view(*index.shape, attention.num_heads, -1).transpose(1, 2)
            for tensor, index in ((queries, asking), (keys, paths), (values, paths))
        )
        # A repeated beginning comes after all that may read it, but an end reads the whole path.
        mask = group.inside if ends else None
        read = scaled_dot_product_attention(query, key, value, mask, is_causal=not ends, scale=attention.scale)
        found.append(read.transpose(1, 2).flatten(2).flatten(0, 1))
    attended = torch.cat(found)
    return attended if ends else attended[tree.firsts]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the number of tokens at the beginning that two texts share."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def is_plain(tower: nn.Module, projection: Any) -> bool:
    """Return whether a tower and its projection compute what the modules in them do, one after the other."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    parts = [part for part in (tower, projection) if isinstance(part, nn.Module)]
    modules = [module for part in parts for module in part.modules()]
    tensors = [parameter for part in parts for parameter in part.parameters()]
    attention = ALL_ATTENTION_FUNCTIONS.get(str(getattr(tower.config, "_attn_implementation", None)))  # None: "eager"
    return (
        all(type(module).__module__.startswith(("torch.nn.", "transformers.", "sith_hf.")) for module in modules)
        and all(_module(hook).startswith("transformers.") for module in modules for hook in _hooks(module))
        and not any("forward" in vars(module) or module._compiled_call_impl is not None for module in modules)
        and len({(tensor.device, tensor.dtype) for tensor in tensors}) == 1
        and (attention is None or _module(attention).startswith("transformers."))
    )


def _hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def _module(function: Any) -> str:
    return str(getattr(function, "__module__", ""))


def _model_type(tower: Any) -> str | None:
    """Return the family of transformers whose code a tower runs, such as "clip"."""
    parts = type(tower).__module__.split(".")
    return parts[2] if parts[:2] == ["transformers", "models"] else None
