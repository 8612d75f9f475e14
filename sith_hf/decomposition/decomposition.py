"""``Decomposition``: the explained singular vectors of a tower, with indexing, tables, charts and storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sith_hf.decomposition.charts import draw_head, draw_map
from sith_hf.decomposition.poles import ExplainedPoles
from sith_hf.decomposition.rows import pole_rows
from sith_hf.decomposition.storage import DECOMPOSITION_LAYOUT, FIELDS, read_fields
from sith_hf.decomposition.summary import summary_html, summary_text
from sith_hf.decomposition.vectors import SingularVector, SingularVectors, at_index
from sith_hf.errors import InputError
from sith_hf.files import library_versions, text_tensors, write_artifact
from sith_hf.hub import Pushable, find_artifact

if TYPE_CHECKING:
    from sith_hf.grounding import Grounding


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(ExplainedPoles, Pushable):
    """The explained singular vectors of a tower.

    The tensors are those of its :class:`~sith_hf.decomposition.ExplainedHeads`, what explains each pole and
    :meth:`find` those of its :class:`~sith_hf.decomposition.ExplainedPoles`.

    ``decomposition[layer, head, vector]`` is one vector. Slices, and indices that are left out, give several, in order:
    ``decomposition[23]``, ``decomposition[-4:, 0]``, ``decomposition[:, :, 0]``. A layer is its *number* in the tower,
    as everywhere; a negative one counts from the last decomposed layer. Iterating goes over all vectors.
    """

    def __repr__(self) -> str:
        return summary_text(self)

    def _repr_html_(self) -> str:
        return summary_html(self)

    def __getitem__(self, index: Any) -> SingularVector | SingularVectors:
        """Return one :class:`SingularVector`, or :class:`SingularVectors` for slices and left-out indices.

        Raises:
            OutOfRange: a layer, head or vector that is not there, or a slice without any.
            InputError: more than three indices, or one that is neither an integer nor a slice of integers.
        """
        return at_index(self, index)

    def __iter__(self) -> Iterator[SingularVector]:
        return iter(SingularVectors.all_of(self))

    def __contains__(self, concept: object) -> bool:
        """Return whether a concept occurs in the explanations (:meth:`has`)."""
        return isinstance(concept, str) and self.has(concept)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row per explained pole, by layer, head, vector, pole.

        | column | meaning |
        |---|---|
        | `layer`, `head`, `vector` | the singular vector; vector 0 is the strongest of its head |
        | `pole` | `"+"` or `"-"` |
        | `singular_value` | s |
        | `energy_share` | s^2 over that of all vectors of the head, 0 to 1 |
        | `fidelity` | cosine of the direction and what its concepts rebuild, -1 to 1 |
        | `ceiling` | the highest possible fidelity, 0 to 1 |
        | `chance` | the mean fidelity of random directions; NaN where not known |
        | `p_value` | of the fidelity, above 0 and at most 1; NaN where not known |
        | `beyond_chance` | whether the words are better than chance (false discovery rate 5 %); NA where not known |
        | `words` | the concepts and weights as they are shown: `silent` for a pole not beyond chance |
        | `concepts`, `weights` | the concepts of every pole, silent ones too, and their weights, by descending weight |
        | `driven_by` | the concepts that drive the pole, on images; None where not measured |
        | `correlations` | theirs, over images, 0 to 1 |
        | `coherence` | the mean cosine of the concepts' embeddings, -1 to 1 |
        | `p_head`, `head_chance` | as `p_value` and `chance`, for what the head can write; NaN where not known |
        | `total_cosine` | the cosine of direct and total effect, -1 to 1; NaN where not measured |

        Without explanations it has one row per vector: `layer`, `head`, `vector`, `singular_value`, `energy_share`.
        """
        return SingularVectors.all_of(self).to_pandas()

    def to_dataset(self) -> Any:
        """Return a ``datasets.Dataset`` with one row per explained pole (the fields of :class:`Explanation`).

        Without explanations it has one row per vector (:meth:`strengths`).
        """
        from datasets import Dataset

        if not self.has_words:
            heads = product(self.layers, range(self.num_heads))
            return Dataset.from_list([row for place in heads for row in self.strengths(*place, self.rank)])
        return Dataset.from_list(pole_rows(self.explanations(), driven=self.drivers is not None))

    def plot(self, concept: str | None = None, *, embedding: Tensor | None = None) -> Any:
        """Draw a map of layers by heads (see :func:`sith_hf.decomposition.charts.draw_map`)."""
        return draw_map(self, concept, embedding)

    def plot_head(self, layer: int, head: int, vectors: int = 12) -> Any:
        """Draw the strongest vectors of one head (see :func:`sith_hf.decomposition.charts.draw_head`)."""
        return draw_head(self, layer, head, vectors)

    def ground(self, images: Any = None, model: Any | None = None, **options: Any) -> Grounding:
        """Show which images drive the vectors, and how well they agree with the words.

        Args:
            images: see :func:`sith_hf.grounding.ground`; drawn noise of shapes when None.
            model: a ``SithEditor`` of the decomposed model, or its folder or Hub id; the recorded base when None.
            options: of :meth:`sith_hf.editor.SithEditor.ground`.

        Raises:
            InputError: the base cannot be loaded by its recorded name, or as for :func:`sith_hf.grounding.ground`.
            BaseMismatch: the model has other weights than the decomposed one.
        """
        from sith_hf.editor import SithEditor

        if not isinstance(model, SithEditor):
            name, revision = (self.base.name, self.base.revision) if model is None else (str(model), None)
            try:
                model = SithEditor.from_pretrained(name, revision)
            except InputError as error:
                raise InputError(f"{error}. Pass the decomposed model: ground(images, model=...)") from None
        return model.with_decomposition(self).ground(images, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``decomposition.safetensors`` into ``folder``. Raises OutputError."""
        tensors = {name: getattr(self, name) for name in FIELDS}
        tensors |= {"layers": torch.tensor(self.layers)} | text_tensors(self.texts)
        data = {"base": self.base.to_json(), "settings": dict(self.settings), "poles": list(self.poles)}
        if self.significance is not None:
            tensors |= self.significance.tensors()
            data["significance"] = self.significance.to_json()
        if self.total_cosine is not None:
            tensors["total_cosine"] = self.total_cosine
        if self.drivers is not None:
            tensors |= self.drivers.tensors()
            data["drivers"] = self.drivers.to_json()
        return write_artifact(folder, DECOMPOSITION_LAYOUT, tensors, {**data, "libraries": library_versions()})

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, token: str | None = None
    ) -> Decomposition:
        """Read what :meth:`save_pretrained` wrote, from a folder or a Hub repository. Raises ArtifactError."""
        return cls(**read_fields(find_artifact(name_or_path, DECOMPOSITION_LAYOUT, revision, token)))
