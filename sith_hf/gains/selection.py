"""``Selection``: which singular vectors a rule may choose, and how it judges the two poles of a vector together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sith_hf.decomposition import Decomposition

# A singular vector by its layer, head and number in the head.
VectorKey = tuple[int, int, int]


@dataclass(frozen=True)
class Selection:
    """The part of a decomposition that a rule looks at.

    Attributes:
        layers: choose only among these, negative ones from the last; all of the decomposition when None.
        heads: choose only among these; all when None.
        both_poles: judge a vector by the mean over its poles, not by the stronger one.
    """

    layers: Iterable[int] | None = None
    heads: Iterable[int] | None = None
    both_poles: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "heads"):
            numbers = getattr(self, name)
            object.__setattr__(self, name, None if numbers is None else tuple(numbers))

    def of_vectors(self, poles: Tensor) -> Tensor:
        """One value for each vector, ``[L, H, R]``, from one for each pole, ``[L, H, R, poles]``."""
        return poles.mean(dim=-1) if self.both_poles else poles.amax(dim=-1)

    def vectors(
        self, decomposition: Decomposition, where: Tensor | None = None
    ) -> Iterator[tuple[VectorKey, tuple[int, int, int]]]:
        """Every vector that may be chosen: its key, and its place in tensors of shape ``[L, H, R]``.

        Args:
            decomposition: what is chosen from.
            where: ``[L, H, R]`` truth values; only these vectors, when given.

        Raises:
            InputError: a layer or head that is not in the decomposition.
        """
        allowed = torch.zeros(decomposition.singular_values.shape, dtype=torch.bool)
        numbers = decomposition.layers if self.layers is None else decomposition.resolve_layers(self.layers)
        columns = range(decomposition.num_heads)
        heads = list(columns if self.heads is None else map(decomposition.resolve_head, self.heads))
        for number in numbers:
            allowed[decomposition.position(number), heads] = True
        for at, head, vector in torch.nonzero(allowed if where is None else allowed & where).tolist():
            yield (decomposition.layers[at], head, vector), (at, head, vector)


# Every vector, judged by its stronger pole.
ALL = Selection()
