"""Where in a picture the edited vectors read what they write."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sith_hf.errors import InputError
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.picture_view import Picture, opened_model
from sith_hf.gains import Gains
from sith_hf.grounding import overlay, reading_coefficients, token_parts
from sith_hf.images import private_copy
from sith_hf.towers import family_of

MOST_VECTORS = 4
"""The number of vectors that are read: those whose writing the edit changes most in this picture."""

SIDE = 224
"""The least side of the picture, in pixels."""
_LINES, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True, eq=False)
class WhereView:
    """The part of each patch in what an edit changes.

    Attributes:
        shown: a PNG file: the picture, orange where the edited vectors read most.
        place: the place of the strongest patch in words, such as ``"upper left"``.
        share: its share of all patches, 0 to 1.
        vectors: the vectors that were read, strongest first.
        of: the number of edited vectors.
    """

    shown: bytes = field(repr=False)
    place: str
    share: float
    vectors: tuple[tuple[int, int, int], ...]
    of: int


def where_in(explorer: Explorer, gains: Gains, picture: Picture) -> WhereView:
    """Return where in a picture an edit takes effect: the parts of patches in the coefficients of edited vectors.

    The coefficient of each vector counts by how much its gain changes, whatever its sign.

    Raises:
        InputError: nothing is edited, or the edit is of a text tower.
        UnsupportedModel: the patches of the model are not known.
    """
    change = {key: abs(gain - 1) for key, gain in gains.gain.items() if gain != 1}
    if not change:
        raise InputError("nothing is edited yet: add a vector or concept with a gain other than 1")
    with explorer.running():
        return _where(explorer, change, picture)


def _where(explorer: Explorer, change: Mapping[tuple[int, int, int], float], picture: Picture) -> WhereView:
    decomposition, editor, variant = explorer.decomposition, explorer.editor, opened_model(explorer)
    own = replace(variant, model=private_copy(variant.model))  # hooks of this call alone
    pixels = picture.pixels[None].to(next(own.model.parameters()).device)
    attention = _attention(own.model, editor.tower.kind, {key[0] for key in change})
    with torch.no_grad(), reading_coefficients(own.model, editor.tower, decomposition, list(change)) as reader:
        again = _watched(attention, lambda: own.embed(pixels))
        written = reader.take()[0].abs()
    amount = {key: change[key] * float(value) for key, value in zip(change, written, strict=True)}
    strongest = sorted(amount, key=lambda key: -amount[key])[:MOST_VECTORS]
    total = torch.zeros(())
    for key in strongest:
        parts = token_parts(own.model, editor.tower, decomposition, key, pixels, again[key[0]])
        total = total + change[key] * parts.patches[0].abs().cpu().float()
    place, share = _strongest(total)
    return WhereView(_drawn(picture, total), place, share, tuple(strongest), len(change))


def _attention(model: Any, kind: str, layers: Iterable[int]) -> dict[int, Any]:
    """Return the attention modules of layers."""
    tower, _ = family_of(model).locate(model, kind)
    paths = family_of(model).outputs(tower)
    return {layer: tower.get_submodule(paths[layer].rpartition(".")[0]) for layer in layers}


def _watched(attention: Mapping[int, Any], run: Callable[[], Any]) -> dict[int, Callable[[Tensor], Any]]:
    """Run the model once; return, for each layer, a function that runs its attention again on what it got."""
    got: dict[int, tuple[Any, Any]] = {}

    def keep(layer: int, module: Any, inputs: Any, options: Any) -> None:
        got[layer] = inputs, options

    with ExitStack() as hooks:
        for layer, module in attention.items():
            hooks.callback(module.register_forward_pre_hook(partial(keep, layer), with_kwargs=True).remove)
        run()

    def again(layer: int, _: Tensor) -> Any:
        inputs, options = got[layer]
        return attention[layer](*inputs, **options)

    return {layer: partial(again, layer) for layer in attention}


def _strongest(total: Tensor) -> tuple[str, float]:
    """Return the place of the largest patch of ``[rows, columns]`` in words, and its share of all."""
    rows, columns = total.shape
    row, column = divmod(int(total.argmax()), columns)
    line, side = _LINES[int(3 * (row + 0.5) / rows)], _COLUMNS[int(3 * (column + 0.5) / columns)]
    place = side if line == "middle" and side == "centre" else f"{line} {side}"
    return place, float(total.max() / total.sum().clamp(min=torch.finfo(total.dtype).tiny))


def _drawn(picture: Picture, total: Tensor) -> bytes:
    shown = Image.open(io.BytesIO(picture.shown)).convert("RGB")
    if min(shown.size) < SIDE:
        shown = shown.resize((SIDE, SIDE * shown.height // shown.width), Image.Resampling.NEAREST)
    file = io.BytesIO()
    overlay(shown, total, float(total.max())).save(file, format="PNG", compress_level=1)
    return file.getvalue()
