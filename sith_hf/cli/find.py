"""``sith-hf find``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sith_hf.cli.options import echo_json, given, json_option, model_options

if TYPE_CHECKING:
    from torch import Tensor

    from sith_hf.decomposition import Decomposition


@click.command()
@click.argument("decomposition")
@click.argument("concept")
@click.option("--model", help="The decomposed model. Needed for concepts that are not in the dictionary.")
@model_options
@click.option("--near", type=float, help="Lowest cosine of centred embeddings that counts as similar.  [default: 0.6]")
@click.option("--limit", type=int, default=20, show_default=True, help="Largest number of results.")
@json_option
def find(
    decomposition: str,
    concept: str,
    model: str | None,
    revision: str | None,
    text_model: str | None,
    near: float | None,
    limit: int,
    as_json: bool,
) -> None:
    """Find the singular vectors in DECOMPOSITION, a folder or Hub id, that mention CONCEPT or a similar concept."""
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table
    from sith_hf.decomposition import Decomposition, match_rows

    loaded = Decomposition.from_pretrained(decomposition)
    if model is None:
        matches = loaded.find(
            concept, embedding=_embedding(decomposition, loaded, concept), limit=limit, **given(near=near)
        )
    else:
        from sith_hf.editor import SithEditor

        editor = SithEditor.from_pretrained(model, revision, text_model=text_model).with_decomposition(loaded)
        matches = editor.find(concept, limit=limit, **given(near=near))
    if as_json:
        echo_json([{**vars(m.explanation), "strength": m.strength, "share": m.share} for m in matches])
    elif matches:
        click.echo(table(*match_rows(matches)))
    else:
        click.echo(f"No vector mentions {sanitize(concept)} or a similar concept.")


def _embedding(folder: str, decomposition: Decomposition, concept: str) -> Tensor | None:
    """The embedding in the dictionary beside the decomposition, for a concept that no explanation has."""
    from pathlib import Path

    from sith_hf.concepts import DICTIONARY_LAYOUT, ConceptDictionary

    if decomposition.has(concept) or not (Path(folder) / DICTIONARY_LAYOUT.filename).is_file():
        return None
    dictionary = ConceptDictionary.from_pretrained(folder)
    same = dictionary.sha256 == decomposition.settings.get("dictionary_sha256")
    return dictionary.embedding_of(concept) if same else None
