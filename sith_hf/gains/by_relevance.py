"""Gains by relevance to a classification task, from class names only (SITH; Method, sec. 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf.concepts import ConceptDictionary, tidy
from sith_hf.core.validation import finite_number
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import ALL, Gains, Selection
from sith_hf.pursuit import CentredAtoms, Pursuit, SomeAtoms, centred

# The paper's settings: ten concepts for each class, a gain never below 0.8, and 0.3 above the relevance.
SPARSITY, COHERENCE_WEIGHT = 10, 0.3
FLOOR, OFFSET = 0.8, 0.3


@dataclass(frozen=True, eq=False)
class TaskConcepts:
    """T concepts that a task is about.

    Attributes:
        texts: the concepts, in the order of the dictionary.
        embeddings: ``[T, P]`` float32, unit rows, not centred.
    """

    texts: tuple[str, ...]
    embeddings: Tensor


def class_task(
    dictionary: ConceptDictionary,
    classes: Sequence[str],
    embed: Callable[..., Mapping[str, Tensor]],
    *,
    leave_out: Iterable[str] | None = None,
    sparsity: int = SPARSITY,
    coherence_weight: float = COHERENCE_WEIGHT,
) -> TaskConcepts:
    """Return the concepts that COMP selects for class names (SITH; Method, sec. 6).

    Embeddings of classes and concepts are normalised and not centred: relevance is a cosine of such embeddings, and the
    centred ones of explanations select other concepts. The concepts in ``leave_out`` are removed first. The task is
    every concept selected for any class, each once, without those of weight zero, which were selected for their
    coherence alone.

    Args:
        dictionary: M encoded concepts.
        classes: the names of the C classes.
        embed: ``embed(*texts)`` returns the embedding of each text by the same text tower, ``[P]``, unit length, not
            centred, such as :meth:`sith_hf.SithEditor.embed`.
        leave_out: concepts not to select, such as synonyms, with the same case; the class names when None. With the
            class "Spitfire", the concept "spitfire" remains.
        sparsity: K, concepts for each class.
        coherence_weight: lambda.

    Raises:
        InputError: no class, embeddings of another size, a dictionary that is not encoded, or fewer than K concepts
            left.
    """
    if isinstance(classes, str) or not classes:
        raise InputError("classes must be a list of at least one class name")
    uncentred = torch.zeros(dictionary.rows.shape[1])
    atoms = CentredAtoms(dictionary.rows, uncentred)
    queries = torch.stack([*embed(*classes).values()]).float().cpu()
    if queries.shape[1:] != atoms.shape[1:]:
        raise InputError(f"embeddings of classes must have shape [{atoms.shape[1]}]; got {list(queries.shape[1:])}")
    hidden = {tidy(name) for name in (classes if leave_out is None else leave_out)}
    left = [i for i, text in enumerate(dictionary.texts) if tidy(text) not in hidden]
    if len(left) < sparsity:
        raise InputError(
            f"{len(left)} concepts are left without the class names, expected at least {sparsity} (sparsity): use a "
            "larger dictionary or a smaller sparsity"
        )
    pursuit = Pursuit(sparsity=sparsity, coherence_weight=coherence_weight)
    code = pursuit(centred(queries, uncentred), SomeAtoms(atoms, torch.tensor(left)))
    chosen = sorted({left[i] for i in code.index[code.weight > 0].tolist()})
    return TaskConcepts(tuple(dictionary.texts[i] for i in chosen), dictionary.embeddings_of(chosen))


def task_relevance(decomposition: Decomposition, task: Tensor) -> Tensor:
    """Return R = sum over k of c_k * max over j of <concept_k, task_j>, for every pole: ``[L, H, R, poles]`` float32.

    Cosines are between embeddings that are normalised but not centred (Method, sec. 6).

    Args:
        decomposition: weights c_k and concepts.
        task: ``[T, P]`` embeddings of the task's concepts, not centred (``TaskConcepts.embeddings``).

    Raises:
        InputError: no task concept, or embeddings of another size.
    """
    size = decomposition.embeddings.shape[1]
    if task.ndim != 2 or len(task) == 0 or task.shape[1] != size:
        raise InputError(f"task embeddings must have shape [T, {size}], T at least 1; got {list(task.shape)}")
    nearest = (normalize(decomposition.embeddings, dim=-1) @ normalize(task.float(), dim=-1).T).amax(dim=1)
    # Padding has the index -1 and a weight of zero.
    return (decomposition.weight * torch.cat([nearest, torch.zeros(1)])[decomposition.concept]).sum(dim=-1)


def by_relevance(
    decomposition: Decomposition,
    relevant: Tensor,
    *,
    floor: float = FLOOR,
    ceiling: float | None = None,
    offset: float = OFFSET,
    select: Selection = ALL,
) -> Gains:
    """Set each gain to R + offset, at least ``floor`` and at most ``ceiling`` (SITH, for classification).

    The paper explains one pole of a vector. With two, a vector has the relevance of its more relevant pole, unless
    ``select`` asks for the mean: weakening a pole that serves the task would hurt the task.

    Args:
        decomposition: the vectors to choose from.
        relevant: ``[L, H, R, poles]``, from :func:`task_relevance`.
        floor: the minimum gain, for vectors that are not about the task.
        ceiling: the maximum gain; no limit when None.
        offset: the number added to the relevance.
        select: which vectors may be chosen.

    Raises:
        InputError: values that are not finite, a floor above the ceiling, or relevance of another shape.
    """
    low, shift = finite_number(floor, "floor"), finite_number(offset, "offset")
    high = None if ceiling is None else finite_number(ceiling, "ceiling")
    if high is not None and low > high:
        raise InputError(f"floor must be at most ceiling; got {floor} and {ceiling}")
    if relevant.shape != decomposition.fidelity.shape or not torch.isfinite(relevant).all():
        raise InputError(f"relevance must be finite, of shape {list(decomposition.fidelity.shape)}")
    value = select.of_vectors(relevant.double())
    gains = (value + shift).clamp(min=low, max=high)
    chosen = dict(select.vectors(decomposition))
    return Gains(
        {key: float(gains[place]) for key, place in chosen.items()},
        {key: f"relevance to the task {float(value[place]):.2f}" for key, place in chosen.items()},
    )


def level_offset(decomposition: Decomposition, relevant: Tensor) -> float:
    """Return the offset that gives the median vector a gain of 1: 1 - median R.

    The paper's 0.3 suits a large dictionary and ten concepts for each class. With a small dictionary or fewer concepts,
    relevance has another level, and most gains would be far from 1.

    Raises:
        InputError: relevance of another shape.
    """
    if relevant.shape != decomposition.fidelity.shape:
        raise InputError(f"relevance must have shape {list(decomposition.fidelity.shape)}; got {list(relevant.shape)}")
    return 1.0 - float(relevant.double().amax(dim=-1).median())
