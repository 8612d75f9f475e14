"""The tensors of a tower: by path and name on disk, and read into attention layers and norms with checks of shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from torch import Tensor

from sith_hf.errors import UnsupportedModel
from sith_hf.towers.attention import AttentionLayer
from sith_hf.towers.family import TowerFamily, names_on_disk
from sith_hf.towers.offload import values
from sith_hf.towers.readout import Norm, Readout


@dataclass(frozen=True)
class Paths:
    """The paths of an attention layer's parts below its own.

    Attributes:
        norm: the norm before the values.
        value, out: the projections.
        scale: the parameter of the layer scale; empty without one.
        fused: whether ``value`` is a module with ``in_proj_weight`` and ``in_proj_bias``, whose last third it is.
    """

    norm: str = "layer_norm1"
    value: str = "self_attn.v_proj"
    out: str = "self_attn.out_proj"
    scale: str = ""
    fused: bool = False


CLIP_PATHS = Paths()


@dataclass(frozen=True, eq=False)
class Tensors:
    """The tensors of a tower by the path of their parameters, with their names on disk.

    Attributes:
        get: path to tensor; None for one that is missing.
        name: path to name on disk.
    """

    get: Callable[[str], Tensor | None]
    name: Callable[[str], str]

    @classmethod
    def of_model(cls, family: TowerFamily, model: Any, path: str) -> Tensors:
        """Return those of the module at ``path`` of a model in memory."""
        stem = f"{path}." if path else ""
        names = names_on_disk(family, type(model).__name__, model.config).canonical

        def get(below: str) -> Tensor | None:
            try:
                parameter = attrgetter(stem + below)(model)
            except AttributeError:
                return None
            return None if parameter is None else values(model, stem + below, parameter, name(below))

        def name(below: str) -> str:
            return names.get(stem + below, stem + below)

        return cls(get, name)

    def need(self, path: str) -> Tensor:
        """Return a tensor. Raises UnsupportedModel if it is missing."""
        found = self.get(path)
        if found is None:
            raise UnsupportedModel(f"{self.name(path)} is missing, which every model of this family has")
        return found


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the fields of an :class:`AttentionLayer`."""

    tensors: dict[str, Tensor | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)

    def add(self, part: str, tensors: Tensors, path: str, *, third: bool = False, required: bool = True) -> None:
        found = tensors.need(path) if required else tensors.get(path)
        if found is None:
            self.tensors[part] = None
            return
        name = tensors.name(path)
        if third:
            self.whole[name], found = found, found[found.shape[0] // 3 * 2 :]
        self.tensors[part], self.names[part] = found, name


def read_layer(
    tensors: Tensors,
    path: str,
    num_heads: int,
    readout: Readout | None,
    paths: Paths = CLIP_PATHS,
    *,
    norm: str | None = None,
    bias: bool = True,
    **flags: Any,
) -> AttentionLayer:
    """Read one attention layer and check its shapes.

    Args:
        tensors: of the tower.
        path: of the layer in the tower.
        num_heads: H.
        readout: the way of what it writes to the joint space.
        paths: where its parts are.
        norm: the path in the tower of the norm before the values, if that is outside the layer.
        bias: whether the projections must have biases; without, they may.
        flags: ``read_centred``, ``write_centred`` and ``title`` of the layer.

    Raises:
        UnsupportedModel: a missing tensor, or one of another shape, such as of grouped heads; the message names it.
    """
    found, stem = _Part(), f"{path}." if path else ""
    norm_path = f"{stem}{paths.norm}" if norm is None else norm
    found.add("norm_weight", tensors, f"{norm_path}.weight")
    found.add("norm_bias", tensors, f"{norm_path}.bias", required=flags.get("read_centred", True))
    dot = "in_proj_" if paths.fused else ""
    inputs = f"{stem}{paths.value}.{dot}"
    found.add("value_weight", tensors, f"{inputs}weight", third=paths.fused)
    found.add("value_bias", tensors, f"{inputs}bias", third=paths.fused, required=bias)
    found.add("out_weight", tensors, f"{stem}{paths.out}.weight")
    found.add("out_bias", tensors, f"{stem}{paths.out}.bias", required=bias)
    if paths.scale:
        found.add("scale", tensors, f"{stem}{paths.scale}")
    out = found.tensors["out_weight"]
    size = 0 if out is None else out.shape[0]
    for part, tensor in found.tensors.items():
        wanted = (size, size) if part in ("value_weight", "out_weight") else (size,)
        if tensor is not None and tensor.shape != wanted:
            raise UnsupportedModel(
                f"{found.names[part]} has shape {list(tensor.shape)} where {list(wanted)} was expected: heads that "
                "share values (grouped heads), or of another total width than the residual stream, are not supported"
            )
    if size % num_heads:
        raise UnsupportedModel(f"{found.names['out_weight']} has width {size}, which {num_heads} heads do not divide")
    fields: dict[str, Any] = {**found.tensors, **flags}
    return AttentionLayer(**fields, readout=readout, names=found.names, whole=found.whole)


def read_layers(
    tensors: Tensors, path: str, count: int, num_heads: int, readout: Readout | None, paths: Paths = CLIP_PATHS,
    **flags: Any,
) -> tuple[AttentionLayer, ...]:  # fmt: skip
    """Read the layers ``path.0`` to ``path.count - 1`` of an encoder (:func:`read_layer`)."""
    return tuple(read_layer(tensors, f"{path}.{n}", num_heads, readout, paths, **flags) for n in range(count))


def tower_tensors(family: TowerFamily, model: Any, kind: str) -> dict[str, Tensor]:
    """Return every parameter of a tower by name on disk."""
    tower, path = family.locate(model, kind)
    tensors = Tensors.of_model(family, model, path)
    return {tensors.name(name): parameter.detach() for name, parameter in tower.named_parameters()}


def read_norm(tensors: Tensors, path: str, eps: float, *, rms: bool = False) -> Norm:
    """Read the last norm of a tower."""
    return Norm(tensors.need(f"{path}.weight"), None if rms else tensors.need(f"{path}.bias"), eps)


def norm_tensors(tensors: Tensors, path: str, norm: Norm) -> dict[str, Tensor]:
    """Return the tensors of a norm by name on disk."""
    found = {tensors.name(f"{path}.weight"): norm.weight}
    return found if norm.bias is None else {**found, tensors.name(f"{path}.bias"): norm.bias}
