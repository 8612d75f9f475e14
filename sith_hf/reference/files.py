"""The files that the paper's authors publish: their names and content, validated.

A name holds the settings of a file::

    layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.pt
    layer-N _ SIDE [_foldln or _nofoldln] _ DICTIONARY _ METHOD[-LAMBDA] _ sparsity-K .pt

``SIDE`` is right (write directions) or left (read directions); ``foldln`` means that the layer norm was folded in;
``DICTIONARY`` is any name; ``METHOD`` is comp, omp (or nnomp), mp (or nnmp), topk or lasso; comp needs its lambda.

The tensors are heads x rank x K or, from the authors' script, (heads * rank) x K. Concepts with score zero are padding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError
from sith_hf.files import TorchFile

EXAMPLE = "layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.pt"
GRAMMAR = (
    "a name is layer-N_right_foldln_DICTIONARY_METHOD[-LAMBDA]_sparsity-K.pt, with left for read directions and "
    f"nofoldln for unfolded weights, such as {EXAMPLE}"
)

SIDES = {"right": "write", "left": "read"}
"""The authors' names of the two directions of a singular vector, and ours."""

_NAME = re.compile(
    r"layer-(?P<layer>\d{1,4})_(?P<side>right|left)(?:[_-](?P<fold>foldln|nofoldln))?_(?P<dictionary>\w[\w.-]*?)"
    r"_(?P<method>comp|(?:nn)?omp|(?:nn)?mp|top-k|topk|lasso)(?:-(?P<weight>\d{1,9}(?:\.\d{1,9})?))?_sparsity-(?P<sparsity>\d{1,6})\.pt",
    re.ASCII,
)


@dataclass(frozen=True)
class ReferenceSettings:
    """The settings in a file's name.

    Attributes:
        layer: the explained layer.
        fold: whether the layer norm was folded in and the weights centred.
        dictionary: the authors' name of their concepts.
        method, sparsity, coherence_weight: see :class:`sith_hf.pursuit.Pursuit`.
        side: the explained directions, "write" or "read".
    """

    layer: int
    fold: bool
    dictionary: str
    method: str
    sparsity: int
    coherence_weight: float
    side: str = "write"

    @classmethod
    def from_name(cls, path: str | Path) -> ReferenceSettings:
        """Read a file's name. Raises InputError for an unknown form of name."""
        name = Path(path).name
        found = _NAME.fullmatch(name)
        if found is None:
            raise InputError(f"{path}: unknown form of file name; {GRAMMAR}")
        method, weight = found["method"].removeprefix("nn").replace("topk", "top-k"), found["weight"]
        if method == "comp" and weight is None:
            raise InputError(f"{path}: comp needs its coherence weight, such as comp-0.3; {GRAMMAR}")
        if int(found["sparsity"]) < 1:
            raise InputError(f"{path}: sparsity must be at least 1")
        return cls(
            layer=int(found["layer"]),
            fold=found["fold"] == "foldln",
            dictionary=found["dictionary"],
            method=method,
            sparsity=int(found["sparsity"]),
            # Numbers after other methods are settings that sith-hf does not have.
            coherence_weight=float(weight) if method == "comp" else 0.0,
            side=SIDES[found["side"]],
        )


@dataclass(frozen=True, eq=False)
class ReferenceFile:
    """The validated content of one file.

    Attributes:
        path: the file.
        settings: from its name.
        sha256: of its bytes.
        scores: ``[H, R, K]`` or ``[H * R, K]`` float64, finite, not negative.
        indices: the same shape, int64: line numbers of concepts from 0, distinct in each row; -1 where the score is 0.
    """

    path: Path
    settings: ReferenceSettings
    sha256: str
    scores: Tensor
    indices: Tensor

    @property
    def rows(self) -> int:
        """The number of vectors of all heads."""
        return self.scores.shape[:-1].numel()

    def heads(self, count: int) -> tuple[Tensor, Tensor]:
        """Return scores and indices as ``[H, R, K]``. Raises InputError unless the file has ``count`` heads."""
        shape = [*self.scores.shape]
        if self.rows % count != 0 or (len(shape) == 3 and shape[0] != count):
            raise InputError(
                f"{self.path} has shape {shape}, this model has {count} heads: the file belongs to another model"
            )
        return self.scores.reshape(count, -1, shape[-1]), self.indices.reshape(count, -1, shape[-1])

    def check_indices(self, lines: int, concepts: str | Path) -> None:
        """Raise InputError for an index beyond the lines of concepts."""
        top = int(self.indices.max())
        if top >= lines:
            raise InputError(
                f"{self.path} refers to concept {top}, counted from 0; {concepts} has {lines} lines. Use the "
                "authors' list of concepts"
            )


def read_reference(path: str | Path) -> ReferenceFile:
    """Read one of the authors' files without running code in it (``weights_only=True``).

    Raises:
        InputError: an unknown form of name, not a zip file of ``torch.save``, content other than tensors and plain
            containers, no ``scores`` or ``indices``, or shapes, types or values other than those of
            :class:`ReferenceFile`.
    """
    path = Path(path)
    settings = ReferenceSettings.from_name(path)
    found = TorchFile.read(path, "torch.save({'scores': ..., 'indices': ...})")
    data = found.content
    if not isinstance(data, dict) or not {"scores", "indices"} <= set(data):
        keys = sanitize(", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__)
        raise InputError(f"{path} holds {keys}; expected a dictionary of scores and indices")
    scores, indices = (found.tensor(name, data[name]) for name in ("scores", "indices"))
    if not scores.is_floating_point():
        raise InputError(f"{path}: scores must be floating-point numbers; got {scores.dtype}")
    if indices.dtype not in (torch.int64, torch.int32, torch.int16):
        raise InputError(f"{path}: indices must be whole numbers; got {indices.dtype}")
    if scores.ndim not in (2, 3) or scores.shape != indices.shape or 0 in scores.shape:
        raise InputError(
            f"{path}: scores and indices must both be heads x rank x K, or (heads * rank) x K; "
            f"got {[*scores.shape]} and {[*indices.shape]}"
        )
    if scores.shape[-1] != settings.sparsity:
        raise InputError(f"{path}: the name gives sparsity {settings.sparsity}, the file has K = {scores.shape[-1]}")
    scores, indices = scores.double().contiguous(), indices.long().contiguous()
    _check_values(path, scores, indices)
    return ReferenceFile(path, settings, found.sha256, scores, torch.where(scores > 0, indices, -1))


def _check_values(path: Path, scores: Tensor, indices: Tensor) -> None:
    if not torch.isfinite(scores).all():
        raise InputError(f"{path}: scores hold NaN or infinity; the file is damaged, download it again")
    if bool((scores < 0).any()):
        raise InputError(f"{path}: scores must not be negative; the smallest is {float(scores.min()):.4g}")
    if bool((indices < -1).any()):
        raise InputError(f"{path}: indices must be line numbers from 0, or -1 for padding; got {int(indices.min())}")
    if bool(((indices < 0) & (scores > 0)).any()):
        raise InputError(f"{path}: padding (index -1) has a score above 0; the file is damaged, download it again")
    ordered = torch.where(scores > 0, indices, -1).sort(dim=-1).values
    if bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any()):
        raise InputError(f"{path}: an explanation contains a concept twice; the file is damaged, download it again")
