"""``Grounding``: the images of several poles, as a table, JSON and contact sheets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sith_hf.charts import sheet_bytes
from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.tables import table
from sith_hf.decomposition import adjusted
from sith_hf.files import library_versions, write_whole
from sith_hf.grounding.notebook import grounding_html
from sith_hf.grounding.pole import GroundedPole
from sith_hf.grounding.sheet import sheets
from sith_hf.towers import layer_title

FILE = "grounding.json"

FDR = 0.05
"""The false discovery rate of the agreement of words and images."""


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

    def _repr_html_(self) -> str:
        title = f"Grounding of {self.base.name}: {self.summary}"
        return grounding_html(title, self.poles, self.pictures, self.base.settings, self.notes)

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
        folder = Path(folder)
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=True, allow_nan=False)
        write_whole(folder / FILE, f"{text}\n".encode())
        name, title = (sanitize(str(text), 60) for text in (self.base.name, self.images["title"]))
        heading, paths = f"{name} on {self.images['count']} images of {title}", []
        for number, sheet in enumerate(sheets(self.poles, self.pictures, heading, self.base.settings), 1):
            paths.append(folder / ("grounding.png" if number == 1 else f"grounding-{number}.png"))
            write_whole(paths[-1], sheet_bytes(sheet))
        return paths[0]
