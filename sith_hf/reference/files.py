"""The files that the paper's authors publish: their names and content, validated.

A name holds the settings of a file::

    layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.pt
    layer-N _ SIDE [_foldln or _nofoldln] _ DICTIONARY _ METHOD[-LAMBDA] _ sparsity-K .pt

``SIDE`` is right (write directions) or left (read directions); ``foldln`` means that the layer norm was folded in;
``DICTIONARY`` is any name; ``METHOD`` is comp, omp, mp, topk or lasso; comp needs its lambda.

The tensors are heads x rank x K or, from the authors' script, (heads * rank) x K. Concepts with score zero are padding.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.concepts import ConceptDictionary, tidy
from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_bytes
from sith_hf.errors import InputError

EXAMPLE = "layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.pt"
GRAMMAR = f"a name is layer-N_right_foldln_DICTIONARY_METHOD[-LAMBDA]_sparsity-K.pt, such as {EXAMPLE}"

MAX_BYTES = 2**30
"""Far above any layer of a CLIP: 64 heads x 128 vectors x 100 concepts take 10 MB."""

_NAME = re.compile(
    r"layer-(?P<layer>\d{1,4})_(?P<side>right|left)(?:[_-](?P<fold>foldln|nofoldln))?_(?P<dictionary>\w[\w.-]*?)"
    r"_(?P<method>comp|omp|mp|top-k|topk|lasso)(?:-(?P<weight>\d{1,9}(?:\.\d{1,9})?))?_sparsity-(?P<sparsity>\d{1,6})\.pt",
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
    """

    layer: int
    fold: bool
    dictionary: str
    method: str
    sparsity: int
    coherence_weight: float

    @classmethod
    def from_name(cls, path: str | Path) -> ReferenceSettings:
        """Read a file's name. Raises InputError for an unknown form of name, and for the left side."""
        name = Path(path).name
        found = _NAME.fullmatch(name)
        if found is None:
            raise InputError(f"{path}: unknown form of file name; {GRAMMAR}")
        if found["side"] == "left":
            raise InputError(
                f"{path} explains left singular vectors (read directions); a decomposition explains write directions. "
                "Import the authors' file with _right_ in its name"
            )
        method, weight = found["method"].replace("topk", "top-k"), found["weight"]
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

    def check_indices(self, lines: Sequence[int], concepts: str | Path) -> None:
        """Raise InputError for an index beyond the lines of concepts, or of a blank line (-1 in ``lines``)."""
        top = int(self.indices.max())
        if top >= len(lines):
            raise InputError(
                f"{self.path} refers to concept {top}, counted from 0; {concepts} has {len(lines)} lines. Use the "
                "authors' list of concepts"
            )
        blank = torch.tensor([place < 0 for place in lines])[self.indices.clamp(min=0)] & (self.indices >= 0)
        if bool(blank.any()):
            line = int(self.indices[blank][0]) + 1
            raise InputError(
                f"{self.path} refers to line {line} of {concepts}, which is blank; use the authors' list of concepts"
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
    data, sizes, digest = _load(path)
    if not isinstance(data, dict) or not {"scores", "indices"} <= set(data):
        keys = sanitize(", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__)
        raise InputError(f"{path} holds {keys}; expected a dictionary of scores and indices")
    for name in ("scores", "indices"):
        _check_tensor(path, name, data[name], sizes)
    scores, indices = data["scores"].detach(), data["indices"].detach()
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
    return ReferenceFile(path, settings, digest, scores, torch.where(scores > 0, indices, -1))


def read_mean(path: str | Path) -> Tensor:
    """Read the authors' ``image_mean.pt``, a finite tensor ``[P]``, without running code in it. Raises InputError."""
    path = Path(path)
    data, sizes, _ = _load(path)
    _check_tensor(path, "the image mean", data, sizes)
    mean: Tensor = data.detach().squeeze()
    if not mean.is_floating_point() or mean.ndim != 1:
        raise InputError(f"{path}: an image mean must be one vector of floating-point numbers; got {[*mean.shape]}")
    if not torch.isfinite(mean).all():
        raise InputError(f"{path}: the image mean holds NaN or infinity; the file is damaged, download it again")
    return mean.float()


def _load(path: Path) -> tuple[Any, set[int], str]:
    """Return a file's content (tensors and plain containers only), the sizes of its parts, and its sha256."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MB, the limit for a reference file")
        digest = hashlib.sha256(read_bytes(path, MAX_BYTES)).hexdigest()
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile:
        raise InputError(
            f"{path} is not a complete file of torch.save (a zip archive, from torch 1.6 on); download it again"
        ) from None
    except InputError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: could not be read ({getattr(error, 'strerror', None) or error})") from None
    # torch stores without compression; a compressed entry could unpack to any size.
    if any(entry.file_size != entry.compress_size for entry in entries):
        raise InputError(f"{path} is a compressed archive, which torch.save never writes; download it again")
    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise a dozen classes in the unpickler
        reason = sanitize((str(error).strip() or type(error).__name__).splitlines()[0], 200)
        raise InputError(
            f"{path} could not be read as tensors only ({reason}); expected a file of "
            "torch.save({'scores': ..., 'indices': ...}). A file that would run code is refused"
        ) from None
    return data, {entry.file_size for entry in entries}, digest


def _check_tensor(path: Path, name: str, value: Any, sizes: set[int]) -> None:
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    if not plain or value.device.type != "cpu":
        raise InputError(f"{path}: {name} must be a plain tensor; got {type(value).__name__}")
    held = value.untyped_storage().nbytes()
    # With strides of zero, a few bytes can claim any shape; a storage can claim more bytes than the archive has.
    if held not in sizes or value.numel() * value.element_size() > held:
        raise InputError(f"{path}: {name} claims shape {[*value.shape]}, more than the file holds; the file is damaged")


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


def numbered_concepts(path: str | Path, template: str | None = None) -> tuple[ConceptDictionary, tuple[int, ...]]:
    """Return the dictionary of a text file, and for each line its index in the dictionary, -1 for a blank line.

    A dictionary has no repeated or blank concepts, so its indices differ from line numbers.
    """
    dictionary = ConceptDictionary.from_file(path, template=template)
    place = {text.casefold(): number for number, text in enumerate(dictionary.texts)}
    lines = read_bytes(path, 2**30).decode("utf-8-sig").removesuffix("\n").split("\n")
    return dictionary, tuple(place.get(tidy(line).casefold(), -1) for line in lines)
