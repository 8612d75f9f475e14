"""The total effect of directions: what a layer writes, plus what later layers make of it (Method, sec. 9)."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from tqdm import tqdm

from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.core.ranges import Numbers
from sith_hf.core.short_repr import short_repr
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.towers import Tower, check_mean, evaluating, family_of

IMAGES = 64
"""Images over which a Jacobian is averaged, unless the caller has fewer."""

# Joint dimensions in one part of a job, the most that is repeated after an interruption.
DIMENSIONS = 32


@short_repr
@dataclass(frozen=True, eq=False)
class TotalEffect:
    """The mean Jacobian J of a tower's normalised embedding with respect to what each layer writes.

    Attributes:
        layers: L layer numbers, ascending.
        jacobian: ``[L, P, D]`` float32: entry (p, d) is the mean over images of the change of embedding entry p per
            unit of entry d, added to the residual stream after the layer's attention at every token at once. For a
            pooling head it is added to what the head writes, at its one token.
        images: the images that it was averaged over, as JSON values.
    """

    layers: tuple[int, ...]
    jacobian: Tensor
    images: Mapping[str, Any] = field(default_factory=dict)

    def change(self, directions: Tensor, layer: int) -> Tensor:
        """Return J w: how the embedding changes per unit of directions ``[..., D]`` that a layer writes, ``[..., P]``.

        Raises:
            InputError: a layer that was not measured.
        """
        if layer not in self.layers:
            raise InputError(f"the total effect of layer {layer} was not measured: only of layers {list(self.layers)}")
        return directions @ self.jacobian[self.layers.index(layer)].to(directions).T

    def to_joint(self, tower: Tower, directions: Tensor, layer: int, mean: Tensor | None = None) -> Tensor:
        """Map directions that a layer writes to unit vectors of the joint space: normalise(p(w) + J w / |J w|).

        J w alone is what the layer's writing does to the embedding to first order, but it varies with the images; p(w)
        steadies it. J w has the scale of the residual stream, which differs between models (0.04 to 0.07 in the
        embedded checkpoint, where p(w) + J w with p(w) of length 1 would be p(w)), so both have the same weight.

        Args:
            tower: the tower, whose :meth:`sith_hf.towers.Tower.to_joint` is p.
            directions: ``[..., D]`` unit vectors, float32 or float64.
            layer: the layer's number.
            mean: mu, ``[P]``, subtracted as for the direct effect; zero when None.

        Returns:
            ``[..., P]`` of the same dtype.
        """
        change = normalize(self.change(directions, layer), dim=-1)
        joint = normalize(tower.to_joint(directions, layer=layer) + change, dim=-1)
        return joint if mean is None else normalize(joint - check_mean(mean, joint.shape[-1]).to(joint), dim=-1)

    def cosine(self, tower: Tower, directions: Tensor, layer: int) -> Tensor:
        """Return the cosine of the direct effect p(w) and the total effect J w, ``[...]`` of the same dtype.

        A low one warns that later layers turn what the vector writes into something else.
        """
        found: Tensor = cosine_similarity(
            tower.to_joint(directions, layer=layer), self.change(directions, layer), dim=-1
        )
        return found.clamp(-1, 1)


def measure_total_effect(
    model: Any,
    tower: Tower,
    batches: Sequence[Tensor],
    layers: Numbers | None = None,
    *,
    projection: Tensor | None = None,
    images: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> TotalEffect:
    """Average the Jacobian of the normalised image embedding over images, of all layers at once.

    A zero vector is added to what each layer's attention writes, at every token; the gradient with respect to it is the
    Jacobian. One backward pass for each joint dimension and batch serves all layers: P times the number of batches.

    Args:
        model: the model with the tower. Weights of 16 bits are converted to float32 in a copy.
        tower: its vision tower, with a way to the joint space.
        batches: pixel values ``[B, 3, S, S]`` of each batch of images.
        layers: layer numbers; all when None. The first one decides how far gradients go back.
        projection: ``[P, D]``, for a model without one (see :class:`sith_hf.images.ModelVariant`).
        images: the record of the images for the result.
        device: where the passes run; the model's own when None.
        job: stores finished joint dimensions, and shares them between processes.
        progress: show the number of passes, the expected time and a bar on stderr.

    Raises:
        InputError: a text tower, no images, a layer that does not exist, or a Jacobian that is not finite.
    """
    if tower.kind != "vision":
        raise InputError(
            "the total effect is measured on images, so it needs a vision tower, and this is a text tower: use "
            'effect="direct" (--effect direct), or decompose the vision tower (tower="vision", --tower vision)'
        )
    size, numbers, job = tower.joint_size, tower.resolve_layers(layers), job or ResumableJob()
    count = sum(map(len, batches))
    if not count:
        raise InputError("no images: the total effect is averaged over at least one")
    where = next(model.parameters()).device if device is None else torch.device(device)
    blocks = {
        f"dimensions-{start:05d}": range(size)[start : start + DIMENSIONS] for start in range(0, size, DIMENSIONS)
    }
    shown = progress and job.processes.is_main
    passes = size * len(batches)
    facts: dict[str, Any] = {}
    if job.folder is not None:
        facts = {
            "weights": sorted(tower.sha256(numbers).items()),
            "settings of the model": dict(tower.settings),
            "layers": list(numbers),
            "images": [dict(images or {}), *map(tensor_sha256, batches)],
            "computed in": [str(next(model.parameters()).dtype), where.type],
            "dimensions in a part": DIMENSIONS,
        }
    found: dict[str, Part] = {}
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=passes, desc="total effect", unit="pass", disable=not shown))
        if shown:
            bar.write(f"total effect: {passes} backward passes over {count} images", file=sys.stderr)
        run = stack.enter_context(_running(model, tower, numbers, projection, where))
        timed = _Timed(bar, job.processes.world_size)

        def make(name: str) -> Part:
            return {"jacobian": _jacobian(run, batches, blocks[name], timed.passed)}

        for name, part in job.parts("total-effect", facts, list(blocks), make):
            found[name] = part
            timed.until(len(blocks[name]) * len(batches))
    jacobian = torch.cat([found[name]["jacobian"] for name in blocks], dim=1) / count
    if not torch.isfinite(jacobian).all():
        raise InputError("the Jacobian of the image embedding is not finite; check the weights, or use float32")
    return TotalEffect(numbers, jacobian.float(), dict(images or {}))


class _Timed:
    """Moves the bar by passes of this process, corrected by those of others, and says the expected time once."""

    def __init__(self, bar: Any, processes: int) -> None:
        self.bar, self.processes, self.done, self.own = bar, processes, 0, 0
        self.started = time.monotonic()

    def passed(self) -> None:
        """Count one backward pass of this process."""
        self.own += 1
        if self.own == 1 and not self.bar.disable:
            seconds = (time.monotonic() - self.started) * (self.bar.total - self.done) / self.processes
            self.bar.write(f"total effect: about {_duration(seconds)}, from the first pass", file=sys.stderr)
        self.bar.update(1)

    def until(self, passes: int) -> None:
        """Count the passes of a whole part."""
        self.done += passes
        self.bar.update(max(0, self.done - self.bar.n))


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


Run = Callable[[Tensor], tuple[Tensor, list[Tensor]]]


def _jacobian(run: Run, batches: Sequence[Tensor], dimensions: range, passed: Callable[[], None]) -> Tensor:
    """Return rows of the Jacobian summed over images, ``[L, len(dimensions), D]`` float64."""
    total: Tensor | None = None
    for batch in batches:
        with torch.enable_grad():
            embeddings, shifts = run(batch)
        rows = []
        for dimension in dimensions:
            last = dimension == dimensions[-1]
            gradients = torch.autograd.grad(
                embeddings[:, dimension].sum(), shifts, retain_graph=not last, materialize_grads=True
            )
            rows.append(torch.stack([each.cpu().double() for each in gradients]))
            passed()
        part = torch.stack(rows, dim=1)
        total = part if total is None else total + part
    assert total is not None
    return total


@contextmanager
def _running(
    model: Any, tower: Tower, layers: Sequence[int], projection: Tensor | None, device: torch.device
) -> Iterator[Run]:
    """Yield a function from pixels to normalised embeddings ``[B, P]`` and the shift ``[D]`` of each layer."""
    first = next(model.parameters())
    home, dtype = first.device, torch.float64 if first.dtype == torch.float64 else torch.float32
    if first.dtype != dtype:
        model = copy.deepcopy(model).to(dtype)
    family = family_of(model)
    module, _ = family.locate(model, tower.kind)
    paths = family.outputs(module)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shifts: list[Tensor] = []

    def shift(number: int, module: Any, inputs: Any, output: Any) -> Any:
        # torch's attention returns a tuple.
        if isinstance(output, tuple):
            return (output[0] + shifts[number], *output[1:])
        return output + shifts[number]

    def run(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        shifts[:] = [torch.zeros(tower.hidden_size, dtype=dtype, device=device, requires_grad=True) for _ in layers]
        found = family.embed_images(model, pixels.to(device, dtype), projection)
        return normalize(found, dim=-1), list(shifts)

    with ExitStack() as undo:
        undo.enter_context(evaluating(model))
        undo.callback(model.to, home)
        model.to(device)
        for parameter in trained:
            undo.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)
        for number, layer in enumerate(layers):
            writer = _writer(module, paths[layer])
            undo.callback(writer.register_forward_hook(partial(shift, number)).remove)
        yield run


def _writer(tower: Any, path: str) -> Any:
    """Return the module whose output is what a layer's attention writes."""
    parent = tower.get_submodule(path.rpartition(".")[0])
    # SigLIP's pooling head uses the weights of its output projection, and does not call it.
    return parent if isinstance(parent, nn.MultiheadAttention) else tower.get_submodule(path)
