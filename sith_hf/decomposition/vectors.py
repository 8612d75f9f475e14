"""``SingularVector`` and ``SingularVectors``: what the index of a decomposition returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, overload

from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.html import block, fact_table, faint, html_table
from sith_hf.core.validation import whole_number
from sith_hf.decomposition.explanation import Explanation, words_text
from sith_hf.decomposition.notebook import MOST_ROWS, pole_table
from sith_hf.decomposition.poles import ExplainedPoles
from sith_hf.decomposition.rows import pole_frame, strength_frame
from sith_hf.errors import InputError, OutOfRange
from sith_hf.towers import layer_title


@dataclass(frozen=True, eq=False, repr=False)
class SingularVector:
    """One singular vector of a decomposition.

    Attributes:
        decomposition: where it is from.
        layer, head, vector: its numbers; vector 0 is the strongest of its head.
    """

    decomposition: ExplainedPoles
    layer: int
    head: int
    vector: int

    @property
    def _place(self) -> tuple[int, int, int]:
        return self.decomposition.place(self.layer, self.head, self.vector)

    @property
    def singular_value(self) -> float:
        """s."""
        return float(self.decomposition.singular_values[self._place])

    @property
    def energy_share(self) -> float:
        """s^2 over the sum of all squared singular values of the head, 0 to 1."""
        return float(self.decomposition.energy_share[self._place])

    @property
    def write(self) -> Tensor:
        """The write direction, ``[D]``."""
        return self.decomposition.write[self._place]

    @property
    def read(self) -> Tensor:
        """The read direction, ``[D]``."""
        return self.decomposition.read[self._place]

    @property
    def explanations(self) -> tuple[Explanation, ...]:
        """The explanations of its poles, in the order of the decomposition's; none without words."""
        found, (position, head, vector) = self.decomposition, self._place
        count = len(found.poles)
        return found.of_head(position, head)[vector * count : (vector + 1) * count] if count else ()

    def __repr__(self) -> str:
        place = f"layer {self.layer}, head {self.head}, vector {self.vector}"
        words = "".join(f"; {item.pole} {sanitize(words_text(item), 200)}" for item in self.explanations)
        return f"SingularVector({place}: {self.energy_share:.1%} of the head's energy{words})"

    def _repr_html_(self) -> str:
        title = f"layer {self.layer}, head {self.head}, vector {self.vector}"
        if not self.explanations:
            energy = f"{self.energy_share:.1%} of the head"
            return block(title, fact_table([("singular value", f"{self.singular_value:.4g}"), ("energy", energy)]))
        return block(title, pole_table(self.explanations, self.decomposition.base.settings))


@dataclass(frozen=True, eq=False, repr=False)
class SingularVectors(Sequence[SingularVector]):
    """Some singular vectors of a decomposition, by layer, head, vector, or in the order of the slices.

    Attributes:
        decomposition: where they are from.
        keys: the (layer, head, vector) of each.
    """

    decomposition: ExplainedPoles
    keys: tuple[tuple[int, int, int], ...]

    @classmethod
    def all_of(cls, decomposition: ExplainedPoles) -> SingularVectors:
        """Return all vectors of a decomposition."""
        axes = decomposition.layers, range(decomposition.num_heads), range(decomposition.rank)
        return cls(decomposition, tuple(product(*axes)))

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> SingularVector: ...

    @overload
    def __getitem__(self, index: slice) -> SingularVectors: ...

    def __getitem__(self, index: int | slice) -> SingularVector | SingularVectors:
        if isinstance(index, slice):
            return SingularVectors(self.decomposition, self.keys[index])
        number = whole_number(index, "an index of vectors")
        if not -len(self) <= number < len(self):
            raise OutOfRange(f"there is no vector {number}: these are {len(self)} vectors")
        return SingularVector(self.decomposition, *self.keys[number])

    def explanations(self) -> list[Explanation]:
        """Return the explanations of all poles, in order; none without words."""
        return [item for vector in self for item in vector.explanations]

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` (see :meth:`Decomposition.to_pandas`)."""
        if self.decomposition.has_words:
            return pole_frame(self.explanations())
        return strength_frame(self.decomposition, self.keys)

    def __repr__(self) -> str:
        names = "layers", "heads", "vectors"
        spans = (_span(name, sorted({key[axis] for key in self.keys})) for axis, name in enumerate(names))
        return f"SingularVectors({len(self):,} vectors: {', '.join(spans)})" if self.keys else "SingularVectors(none)"

    def _repr_html_(self) -> str:
        title = repr(self).removeprefix("SingularVectors(").removesuffix(")")
        settings = self.decomposition.base.settings
        if not self.decomposition.has_words:
            rows = [
                [layer_title(v.layer, settings), v.head, v.vector, f"{v.energy_share:.1%}", f"{v.singular_value:.4g}"]
                for v in self[:MOST_ROWS]
            ]
            columns = ["layer", "head", "vector", "energy", "singular value"]
            return block(title, html_table(columns, rows, more=len(self) - len(rows)))
        count = len(self.decomposition.poles)
        shown = self[: MOST_ROWS // count].explanations()
        table = pole_table(shown, settings, more=len(self) * count - len(shown))
        silent = sum(item.silent for item in shown)
        note = f"{silent} of these {len(shown)} poles are silent: explained no better than chance." if silent else None
        return block(title, table, None if note is None else faint(note))


def _span(name: str, numbers: list[int]) -> str:
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    if len(numbers) == 1:
        return f"{name.removesuffix('s')} {numbers[0]}"
    return f"{name} {numbers[0]}-{numbers[-1]}" if whole else f"{len(numbers)} {name} of {numbers[0]}-{numbers[-1]}"


def at_index(found: ExplainedPoles, index: Any) -> SingularVector | SingularVectors:
    """Return what ``decomposition[index]`` is.

    Raises:
        OutOfRange, InputError: as for :meth:`Decomposition.__getitem__`.
    """
    parts = index if isinstance(index, tuple) else (index,)
    if len(parts) > 3:
        raise InputError(
            f"a decomposition has three axes, [layer, head, vector]; got {len(parts)} indices. A pole is explained by "
            "explain(layer, head, vector, pole)"
        )
    axes = ("layer", found.layers), ("head", tuple(range(found.num_heads))), ("vector", tuple(range(found.rank)))
    whole = (*parts, *[slice(None)] * (3 - len(parts)))
    numbers = [_numbers(name, known, part) for (name, known), part in zip(axes, whole, strict=True)]
    if any(isinstance(part, slice) for part in whole):
        return SingularVectors(found, tuple(product(numbers[0], numbers[1], numbers[2])))
    return SingularVector(found, *(each[0] for each in numbers))


def _numbers(name: str, known: Sequence[int], index: Any) -> list[int]:
    """Return the numbers on an axis that an index names, of those in ``known``; negative ones count from its end."""
    have = f"this decomposition has {name}s {_listed(known)}"
    if not isinstance(index, slice):
        number = whole_number(index, f"the index of a {name}")
        found = known[number] if -len(known) <= number < 0 else number
        if found not in known:
            raise OutOfRange(f"{name} {number} is not there: {have}")
        return [found]
    parts = [None if p is None else whole_number(p, f"in a slice of {name}s each part") for p in _parts(index)]
    start, stop = (p if p is None or p >= 0 else known[p] if p >= -len(known) else 0 for p in parts[:2])
    if parts[2] == 0:
        raise InputError(f"a slice of {name}s needs a step other than 0")
    numbers = set(known)
    found_numbers = [n for n in range(*slice(start, stop, parts[2]).indices(known[-1] + 1)) if n in numbers]
    if not found_numbers:
        raise OutOfRange(f"no {name} is in [{_shown(index)}]: {have}")
    return found_numbers


def _parts(index: slice) -> tuple[Any, Any, Any]:
    return index.start, index.stop, index.step


def _shown(index: slice) -> str:
    start, stop, step = ("" if part is None else str(part) for part in _parts(index))
    return f"{start}:{stop}" + (f":{step}" if step else "")


def _listed(known: Sequence[int]) -> str:
    whole = len(known) > 2 and list(known) == list(range(known[0], known[-1] + 1))
    return f"{known[0]}-{known[-1]}" if whole else ", ".join(map(str, known))
