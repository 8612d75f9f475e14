"""``Grounding``: the images that drive poles of singular vectors, and how well they agree with the words."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.tables import table
from sith_hf.decomposition import Explanation, adjusted, concepts_text
from sith_hf.files import library_versions, write_whole
from sith_hf.grounding.agreement import Agreement
from sith_hf.towers import layer_title

FILE = "grounding.json"

FDR = 0.05
"""The false discovery rate of the agreement of words and images."""


@dataclass(frozen=True, eq=False)
class GroundedImage:
    """An image, seen by one pole.

    Attributes:
        row: its number in the dataset, among the rows that the settings choose.
        file: the name of its file, empty if it has none.
        coefficient: of the vector, at the token of :attr:`GroundedPole.where`; negative where it drives pole "-".
        similarity: of its embedding to the explanation, the weighted sum of its concepts; None without one.
        patches: ``[rows, columns]``, the part of each patch in the coefficient; None where it is not known.
        others: the part of all other tokens, such as the class token. Parts add up to the coefficient.
    """

    row: int
    file: str
    coefficient: float
    similarity: float | None = None
    patches: Tensor | None = field(default=None, repr=False)
    others: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the parts of single patches."""
        return {name: getattr(self, name) for name in ("row", "file", "coefficient", "similarity", "others")}


@dataclass(frozen=True, eq=False)
class GroundedPole:
    """The images of one pole of one singular vector.

    Attributes:
        layer, head, vector, pole: the pole.
        where: the token at which coefficients are read: ``"class token"``, ``"pool"`` or ``"mean over tokens"``.
        active: the share of all images whose coefficient has the sign of the pole.
        images: those that drive the pole most, strongest first.
        random: random images, none of which is among ``images``.
        explanation: of the pole; None in a decomposition without words.
        beyond_chance: whether the explanation is better than chance; None if not known.
        agreement: of the explanation and the images; None without words or embeddings.
    """

    layer: int
    head: int
    vector: int
    pole: str
    where: str
    active: float
    images: tuple[GroundedImage, ...]
    random: tuple[GroundedImage, ...]
    explanation: Explanation | None = None
    beyond_chance: bool | None = None
    agreement: Agreement | None = None

    @property
    def silent(self) -> bool:
        """Whether the words are known to be no better than chance."""
        return self.beyond_chance is False

    @property
    def driven_by(self) -> tuple[tuple[str, float], ...] | None:
        """The concepts that go with the coefficient, with their correlations; None if they were not measured."""
        found: tuple[tuple[str, float], ...] | None = getattr(self.explanation, "driven_by", None)
        return found

    @property
    def words(self) -> str:
        """What the pole writes, in words; marked if the words are no better than chance."""
        if self.explanation is None:
            return ""
        return concepts_text(self.explanation) + (" (chance)" if self.silent else "")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        found = self.agreement
        writes = None if self.explanation is None else [list(pair) for pair in self.explanation.concepts]
        return {
            **{name: getattr(self, name) for name in ("layer", "head", "vector", "pole", "where", "active")},
            "writes": writes,
            "driven_by": None if self.driven_by is None else [list(pair) for pair in self.driven_by],
            "beyond_chance": self.beyond_chance,
            "agreement": None if found is None else vars(found),
            "images": [image.to_json() for image in self.images],
            "random": [image.to_json() for image in self.random],
        }


@dataclass(frozen=True, eq=False)
class Grounding:
    """The images of P poles.

    Attributes:
        poles: in the order of the vectors, strongest vector first.
        pictures: row to picture, a PNG file of what the model sees.
        base: the decomposed weights.
        images: the dataset: title, count, skipped rows by reason, fingerprint.
        notes: what is missing and why, in sentences.
    """

    poles: tuple[GroundedPole, ...]
    pictures: Mapping[int, bytes] = field(repr=False)
    base: BaseRef = field(repr=False)
    images: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def agreeing(self) -> int | None:
        """The number of poles whose words and images agree beyond chance (``FDR``); None if none was compared."""
        import torch

        p_values = [pole.agreement.p_value for pole in self.poles if pole.agreement is not None]
        return int((adjusted(torch.tensor(p_values, dtype=torch.float64)) <= FDR).sum()) if p_values else None

    @property
    def summary(self) -> str:
        """One sentence about all poles."""
        compared = sum(pole.agreement is not None for pole in self.poles)
        silent = sum(pole.silent for pole in self.poles)
        parts = [f"{len(self.poles)} poles on {self.images['count']} images"]
        if compared:
            parts.append(
                f"words and images agree beyond chance for {self.agreeing} of {compared} "
                f"(false discovery rate {100 * FDR:g} %)"
            )
        if silent:
            parts.append(f"the words of {silent} are no better than chance")
        return "; ".join(parts)

    def table(self) -> str:
        """Return a table of the poles."""
        columns = ["layer", "head", "vector", "pole", "active", "AUC", "p", "top image", "writes (weight)"]
        measured = any(pole.driven_by is not None for pole in self.poles)
        rows = []
        for pole in self.poles:
            found, first = pole.agreement, pole.images[0]
            rows.append(
                [
                    layer_title(pole.layer, self.base.settings), pole.head, pole.vector, pole.pole, pole.active,
                    "" if found is None else f"{found.auc:.2f}", "" if found is None else f"{found.p_value:.4f}",
                    f"{first.row}: {first.coefficient:.3g}", pole.words,
                    *([", ".join(f"{text} {r:.2f}" for text, r in pole.driven_by or ())] if measured else []),
                ]
            )  # fmt: skip
        if measured:
            columns.append("driven by (correlation)")
        return table(columns, rows)

    def __repr__(self) -> str:
        return f"Grounding({sanitize(self.base.name)}, {self.summary})"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "base": self.base.to_json(),
            "images": dict(self.images),
            "agreeing": self.agreeing,
            "notes": list(self.notes),
            "poles": [pole.to_json() for pole in self.poles],
            "libraries": library_versions(),
        }

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``grounding.json`` and the contact sheets ``grounding.png``, ``grounding-2.png``, ... into ``folder``.

        Returns:
            the path of the first sheet.

        Raises:
            OutputError: a file could not be written.
        """
        from sith_hf.grounding.sheet import sheets

        folder = Path(folder)
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=True, allow_nan=False)
        write_whole(folder / FILE, f"{text}\n".encode())
        paths = []
        for number, sheet in enumerate(sheets(self), 1):
            file = io.BytesIO()
            sheet.save(file, format="PNG")
            paths.append(folder / ("grounding.png" if number == 1 else f"grounding-{number}.png"))
            write_whole(paths[-1], file.getvalue())
        return paths[0]
