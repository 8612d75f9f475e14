"""Two other ways to name units, written from their papers, for singular vectors.

- TextSpan (Gandelsman, Efros and Steinhardt, 2024, "Interpreting CLIP's image representation via text-based
  decomposition", sec. 4): a greedy basis of texts for what a head writes, over images, to the class token's embedding.
- CLIP-Dissect (Oikarinen and Weng, 2023, "CLIP-Dissect: Automatic description of neuron representations in deep vision
  networks", sec. 3): concepts whose similarity to probing images goes with a unit's activations, by soft WPMI or by the
  cosine of cubes.

Both need images. A unit of ours is a pole of a singular vector; TextSpan's is a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Soft WPMI: the temperature of a concept's probability, the weight of its prior, the number of images that a unit
# marks, and the probabilities that the first and last of them belong to it.
TEMPERATURE, PRIOR, MARKED, FIRST, LAST = 10.0, 1.0, 100, 0.998, 0.97


def text_span(written: Tensor, texts: Tensor, count: int) -> Tensor:
    """Return a greedy basis of texts for what a head writes.

    Each step takes the text along whose direction the outputs vary most, and projects it out of outputs and texts. As
    in the paper, texts are first projected onto the span of the outputs.

    Args:
        written: ``[B, P]``, the head's outputs in the joint space.
        texts: ``[M, P]``, text embeddings.
        count: texts to take, at most M.

    Returns:
        indices of texts ``[count]``, in the order taken.
    """
    left = written.double() - written.double().mean(dim=0)
    _, sizes, span = torch.linalg.svd(left, full_matrices=False)
    span = span[sizes > 1e-6 * sizes[0]]
    rest = texts.double() @ span.T @ span
    taken: list[int] = []
    for _ in range(count):
        length = rest.norm(dim=1)
        # A text that has no part left beyond those taken explains nothing.
        unit = rest / length.clamp(min=1e-6 * float(texts.norm(dim=1).max())).unsqueeze(1)
        variance = (left @ unit.T).square().mean(dim=0)
        variance[taken] = -1.0
        best = int(variance.argmax())
        taken.append(best)
        left = left - (left @ unit[best]).unsqueeze(1) * unit[best]
        rest = rest - (rest @ unit[best]).unsqueeze(1) * unit[best]
    return torch.tensor(taken)


def soft_wpmi(activations: Tensor, similarities: Tensor) -> Tensor:
    """Return CLIP-Dissect's soft WPMI of each unit and concept, ``[N, M]`` float64.

    With p(t|x) the softmax over concepts of similarities and p(x in B) falling linearly over the images that a unit
    marks, its most active ones, it is the sum over x of log(1 + p(x in B) (p(t|x) - 1)), less the log of p(t).

    Args:
        activations: ``[B, N]``, of units on images.
        similarities: ``[B, M]``, cosines of images and concepts.
    """
    p = torch.softmax(TEMPERATURE * similarities.double(), dim=1)
    marked = min(MARKED, len(activations))
    belongs = torch.linspace(FIRST, LAST, marked, dtype=torch.float64).unsqueeze(1)
    top = activations.topk(marked, dim=0).indices
    posterior = torch.stack([(1 + belongs * (p[images] - 1)).log().sum(dim=0) for images in top.T])
    # The prior of a concept is what units make of it on average.
    prior = torch.logsumexp(posterior, dim=0) - torch.log(torch.tensor(float(len(posterior))))
    return posterior - PRIOR * prior


def cosine_cubed(activations: Tensor, similarities: Tensor) -> Tensor:
    """Return the cosine of the cubes of standardised activations and similarities, ``[N, M]`` float64."""

    def cubed(values: Tensor) -> Tensor:
        centred = values.double() - values.double().mean(dim=0)
        return normalize((centred / centred.std(dim=0).clamp(min=1e-12)) ** 3, dim=0)

    return cubed(activations).T @ cubed(similarities)
