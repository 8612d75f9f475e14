"""``sith-hf show``: print a decomposition or an edit spec."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sith_hf.cli import options
from sith_hf.cli.answer import FEW, detailed, details, show_answer
from sith_hf.cli.output import evidence_lines, heard, vectors_title
from sith_hf.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from sith_hf.decomposition import Decomposition
    from sith_hf.edits import AnySpec


@click.command()
@click.argument("artifact")
@click.option("--layers", type=options.LAYERS, help="Only these layers, such as -4:, 8-11 or last4.  [default: all]")
@click.option("--heads", type=options.HEADS, help="Only these heads, likewise.  [default: all]")
@click.option("--beside", help="A decomposition of the other side of the same model: show its concepts too.")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Strongest vectors per head.")
@options.chance
@details
@options.as_json
def show(
    artifact: str,
    layers: tuple[int | str, ...] | None,
    heads: tuple[int | str, ...] | None,
    beside: str | None,
    top: int,
    fdr: float,
    every: bool,
    as_json: bool,
) -> None:
    """Print ARTIFACT, a decomposition or an edit spec: a folder or Hub id.

    For a decomposition, print the strongest vectors of each head: the poles that are explained better than chance, each
    with the concepts that it writes and, if they were measured (sith-hf decompose --images), those that drive it; or
    the strength of each vector if no words explain it.
    """
    from sith_hf.core.formatting import counted
    from sith_hf.core.tables import table
    from sith_hf.decomposition import (
        WORDS,
        Decomposition,
        clearest_heads,
        explanation_rows,
        head_sentence,
        marked_text,
        speaking,
        words_text,
    )

    found = _read(artifact)
    if not isinstance(found, Decomposition) and beside is not None:
        raise InputError("--beside needs a decomposition; this is an edit spec")
    if not isinstance(found, Decomposition):
        _show_spec(found, as_json)
        return
    assert isinstance(found, Decomposition)
    places = list(
        product(
            found.resolve_layers(layers),
            found.resolve_heads(heads),
        )
    )
    if beside is None and not found.has_words:
        strengths = [row for place in places for row in found.strengths(*place, top)]
        names = ["layer", "head", "vector", "energy", "singular value"]
        keys = ("layer", "head", "vector", "energy_share", "singular_value")
        rows = [[row[key] for key in keys] for row in strengths]
        data = [{"tower": found.tower, **row} for row in strengths]
        few = len(rows) if detailed() else FEW
        more = [f"{counted(len(rows) - few, 'more vector')}: --details"] if len(rows) > few else []
        show_answer(as_json, data, speaking(found), table(names, rows[:few], title=vectors_title(found)), *more)
        return
    explanations = found.at_rate((item for place in places for item in found.theme(*place, top)), fdr)
    title = vectors_title(found)
    data = [{"tower": found.tower, **vars(item)} for item in explanations]
    columns, rows = explanation_rows(explanations, found.base.settings)
    if beside is not None:
        other_side = Decomposition.from_pretrained(beside)
        others = other_side.at_rate(found.same_vectors(other_side, explanations), fdr)
        data = [
            item | {"beside": {"tower": found.tower, **vars(other)}} for item, other in zip(data, others, strict=True)
        ]
        columns = [*columns[: WORDS + 1], f"{others[0].side}s (weight)", *columns[WORDS + 1 :]]
        title = vectors_title(found, side=False)
        text = marked_text if every else words_text
        pairs = zip(rows, explanations, others, strict=True)
        rows = [[*row[:WORDS], text(own), text(other), *row[WORDS + 1 :]] for row, own, other in pairs]
        explanations = [a if other.silent else other for a, other in zip(explanations, others, strict=True)]
    # The heads that words explain best, where there are many.
    clear = [place for place in clearest_heads(found, len(found.layers) * found.num_heads, fdr) if place in places]
    best = places if every or detailed() else list(dict.fromkeys([*clear, *places]))[:FEW]
    kept = [number for number, item in enumerate(explanations) if (item.layer, item.head) in best]
    shown_rows, dim, _ = heard(
        [rows[i] for i in kept], [explanations[i] for i in kept], every=every, fdr=fdr, words=WORDS
    )
    _, _, line = heard(rows, explanations, every=every, fdr=fdr, words=WORDS)
    shown = [table(columns, shown_rows, title=title, dim=dim)] if shown_rows else [title] if title else []
    fewer = bool(shown_rows) and len(kept) < len(rows)
    more = [f"shown are the heads that words explain best; --details shows all {len(places)}"] if fewer else []
    answer = head_sentence(found, *places[0], fdr) if len(places) == 1 else speaking(found, fdr)
    show_answer(as_json, data, answer, *shown, line, *more, *evidence_lines(found))


def _show_spec(spec: AnySpec, as_json: bool) -> None:
    from sith_hf.cards import headline
    from sith_hf.core.escaping import sanitize

    show_answer(as_json, spec.rows(), headline(spec, sanitize), rest=[spec])


def _read(artifact: str) -> Decomposition | AnySpec:
    from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition

    folder = Path(artifact)
    if os.path.isfile(folder / DECOMPOSITION_LAYOUT.filename):
        return Decomposition.from_pretrained(artifact)

    # Not before: what is about edits takes a while to import.
    from sith_hf.edits import EDIT_SPEC_LAYOUT, EditSpec

    specs = folder / EDIT_SPEC_LAYOUT.filename, folder / "sith" / EDIT_SPEC_LAYOUT.filename
    if any(os.path.isfile(path) for path in specs):
        return EditSpec.from_pretrained(folder)
    try:
        return Decomposition.from_pretrained(artifact)
    except ArtifactError:
        if os.path.exists(artifact):
            raise
        return EditSpec.from_pretrained(artifact)  # a repository may contain either
