"""``sith-hf find``: find the singular vectors that carry a concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import options
from sith_hf.cli.answer import FEW, detailed, details, show_answer
from sith_hf.cli.output import heard, vectors_title

if TYPE_CHECKING:
    from torch import Tensor

    from sith_hf.decomposition import Decomposition, Match


@click.command()
@click.argument("decomposition")
@click.argument("concept")
@click.option("--model", help="The decomposed model. Needed for concepts that are not in the dictionary.")
@options.model
@options.group(
    "rule",
    options.near,
    click.option("--limit", type=int, default=20, show_default=True, help="Largest number of results."),
)
@options.chance
@details
@options.as_json
def find(
    decomposition: str,
    concept: str,
    model: str | None,
    loading: dict[str, Any],
    rule: dict[str, Any],
    fdr: float,
    every: bool,
    as_json: bool,
) -> None:
    """Find the singular vectors in DECOMPOSITION, a folder or Hub id, that mention CONCEPT or a similar concept.

    Poles that are explained no better than chance are counted, and not shown without --all.

    They write it, or in a decomposition of read directions (sith-hf decompose --side read) look for it.
    """
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table
    from sith_hf.core.validation import did_you_mean
    from sith_hf.decomposition import Decomposition, match_rows
    from sith_hf.editor import SithEditor

    loaded = Decomposition.from_pretrained(decomposition)
    if model is None:
        matches = loaded.find(concept, embedding=_embedding(decomposition, loaded, concept), **rule)
    else:
        editor = SithEditor.from_pretrained(model, **loading).with_decomposition(loaded)
        matches = editor.find(concept, **rule)
    judged = loaded.at_rate((match.explanation for match in matches), fdr)
    matches = [replace(match, explanation=item) for match, item in zip(matches, judged, strict=True)]
    data = [{"tower": loaded.tower, **vars(m.explanation), "strength": m.strength, "share": m.share} for m in matches]
    meant = "" if loaded.has(concept) else did_you_mean(concept, loaded.texts)
    nothing = f"No vector mentions {sanitize(concept)} or a similar concept{sanitize(meant)}."
    columns, rows = match_rows(matches, loaded.base.settings)
    rows, dim, line = heard(rows, judged, every=every, fdr=fdr)
    title = vectors_title(loaded)
    if not matches:
        show_answer(as_json, data, nothing)
        return
    few = len(rows) if detailed() or every else FEW
    shown = [table(columns, rows[:few], title, dim)] if rows else [title] if title else []
    more = [f"{len(rows) - few} more poles mention it: --details"] if len(rows) > few else []
    show_answer(as_json, data, _answer(concept, matches, loaded), *shown, *more, line)


def _answer(concept: str, matches: Sequence[Match], loaded: Decomposition) -> str:
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.formatting import counted
    from sith_hf.towers import layer_title

    name = sanitize(concept, 200)
    loud = [match for match in matches if not match.explanation.silent]
    if not loud:
        return f"{name}: no vector has words better than chance; {counted(len(matches), 'pole')} mention it by chance"
    first = loud[0].explanation
    vectors = {(match.explanation.layer, match.explanation.head, match.explanation.vector) for match in loud}
    at = f"layer {layer_title(first.layer, loaded.base.settings)}, head {first.head}, vector {first.vector}{first.pole}"
    return f"{name}: {counted(len(vectors), 'vector')}, the strongest in {at} (strength {loud[0].strength:.2f})"


def _embedding(folder: str, decomposition: Decomposition, concept: str) -> Tensor | None:
    """Return the embedding in the dictionary beside the decomposition, for a concept that no explanation has."""
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.validation import did_you_mean
    from sith_hf.decomposition import dictionary_beside
    from sith_hf.errors import InputError

    dictionary = None if decomposition.has(concept) else dictionary_beside(folder, decomposition)
    if dictionary is None:
        return None
    found = dictionary.embedding_of(concept)
    if found is None:
        meant = sanitize(did_you_mean(concept, dictionary.texts))
        raise InputError(
            f"neither an explanation nor the dictionary has the concept '{sanitize(concept)}'{meant}: name the "
            "decomposed model, which encodes it (--model)"
        )
    return found
