"""``Adaptation``: what a fine-tuned tower changed, head by head, and the words of the change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from sith_hf.adaptation.head_change import PARTS, HeadChange, relative_change, shares
from sith_hf.adaptation.words import ChangeWords
from sith_hf.core.html import block, faint, html_table
from sith_hf.towers import layer_title

COMPARED = (
    "the value-output matrices of the heads, with the norm before the values folded in and the all-ones direction "
    "dropped"
)

# Rows that a notebook shows: heads or words, and the last layers.
_SHOWN, _LAYERS = 8, 25


@dataclass(frozen=True, eq=False, repr=False)
class Adaptation:
    """The changes of all compared heads of a tower.

    Attributes:
        heads: by layer, then head.
        tower: ``"vision"`` or ``"text"``.
        family: of the models.
        settings: of the base tower.
        close: singular values are one block if they differ by at most this part.
        words: the explained directions of the change, by descending energy; None if they were not explained.
    """

    heads: tuple[HeadChange, ...]
    tower: str
    family: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    close: float = 0.0
    words: tuple[ChangeWords, ...] | None = None

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares(self.heads).items())
        return f"Adaptation({self._in_words}: {parts})"

    @property
    def _in_words(self) -> str:
        layers = f"{len(self.layers)} {'layer' if len(self.layers) == 1 else 'layers'}"
        change = f"||M' - M|| / ||M|| {relative_change(self.heads):.3g}"
        return f"{self.tower} tower, {layers}: {len(self.changed)} of {len(self.heads)} heads changed, {change}"

    def _repr_html_(self) -> str:
        parts: list[Markup | None] = []
        for title, (columns, rows) in (
            ("by layer", self.layer_rows()),
            ("most changed heads", self.head_rows(_SHOWN)),
            ("words of the change", self.word_rows(_SHOWN)),
        ):
            if rows:
                parts += [faint(title), html_table(columns, rows[-_LAYERS:], more=max(0, len(rows) - _LAYERS))]
        silent, poles = self.silent()
        note = faint(f"{silent} of {poles} explained poles have no words beyond chance.") if poles else None
        return block(self._in_words, *parts, note)

    @property
    def changed(self) -> tuple[HeadChange, ...]:
        """The heads that changed by more than rounding, by descending energy of the change."""
        return tuple(sorted((h for h in self.heads if h.changed), key=lambda h: (-h.energy, h.layer, h.head)))

    @property
    def layers(self) -> tuple[int, ...]:
        """The compared layers."""
        return tuple(dict.fromkeys(head.layer for head in self.heads))

    def of_layer(self, layer: int) -> tuple[HeadChange, ...]:
        """Return the heads of a layer."""
        return tuple(head for head in self.heads if head.layer == layer)

    def layer_rows(self) -> tuple[list[str], list[list[object]]]:
        """Return columns and rows for :func:`sith_hf.core.tables.table`: one row for each layer, and one for all."""
        rows: list[list[object]] = []
        for layer in self.layers:
            rows.append([str(layer_title(layer, self.settings)), *_numbers(self.of_layer(layer))])
        rows.append(["all", *_numbers(self.heads)])
        return ["layer", "heads changed", "change", *PARTS], rows

    def head_rows(self, top: int) -> tuple[list[str], list[list[object]]]:
        """Return columns and rows for :func:`sith_hf.core.tables.table`: the most changed heads."""
        total = sum(head.energy for head in self.heads)
        columns = ["layer", "head", "change", "of all", *PARTS, "leading k", "write angle", "read angle"]
        return columns, [
            [
                layer_title(h.layer, self.settings),
                h.head,
                h.relative,
                h.energy / total,
                *(getattr(h, part) for part in PARTS),
                h.leading,
                max(h.write_angles, default=0.0),
                max(h.read_angles, default=0.0),
            ]
            for h in self.changed[:top]
        ]

    def word_rows(self, top: int) -> tuple[list[str], list[list[object]]]:
        """Return columns and rows for :func:`sith_hf.core.tables.table`: poles of the change with words beyond chance.

        Poles are in the order of the energy of their directions.
        """
        columns = ["layer", "head", "direction", "pole", "of all", "fidelity", "concepts (weight)"]
        rows = [row for item in self.words or () for row in item.rows(self.settings)]
        return columns, rows[:top]

    def silent(self) -> tuple[int, int]:
        """Return how many explained poles have no words beyond chance, and how many there are."""
        poles = [beyond for item in self.words or () for beyond in item.beyond_chance]
        return poles.count(False), len(poles)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        change = relative_change(self.heads)
        return {
            "compared": COMPARED,
            "tower": self.tower,
            "family": self.family,
            "close": self.close,
            "change": change if math.isfinite(change) else None,
            "changed_heads": len(self.changed),
            **shares(self.heads),
            "layers": [
                {"layer": layer, "change": x if math.isfinite(x := relative_change(own)) else None, **shares(own)}
                for layer in self.layers
                for own in [self.of_layer(layer)]
            ],
            "heads": [head.to_json() for head in self.heads],
            "words": None if self.words is None else [item.to_json() for item in self.words],
        }


def _numbers(heads: tuple[HeadChange, ...]) -> list[object]:
    return [f"{sum(h.changed for h in heads)} of {len(heads)}", relative_change(heads), *shares(heads).values()]
