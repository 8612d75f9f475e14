"""``sith-hf edit``."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli.options import (
    ConceptGain,
    Numbers,
    echo_json,
    given,
    json_option,
    model_options,
    output_option,
    rule_options,
)
from sith_hf.errors import InputError


@click.command()
@click.argument("model")
@click.option("--decomposition", required=True, help="The decomposition of MODEL: folder or Hub id.")
@click.option("--suppress", type=ConceptGain(0.0), multiple=True, help="Turn a concept down (gain 0).")
@click.option("--amplify", type=ConceptGain(1.5), multiple=True, help="Turn a concept up (gain 1.5).")
@click.option("--invert", multiple=True, metavar="CONCEPT", help="Turn a concept into its opposite (gain -1).")
@click.option("--layers", type=Numbers(), help="Only these layers; with --gain, all vectors there.")
@click.option("--heads", type=Numbers(), help="Only these heads; with --gain, all vectors there.")
@click.option("--vectors", type=Numbers(), help="Vectors named outright, with --gain.")
@click.option(
    "--gain", type=float, help="The gain of layers, heads and vectors that are named outright, without concepts."
)
@click.option("--strength", type=float, help="Scale the whole edit: 0.5 goes half of the way.")
@rule_options
@model_options
@output_option("edit_spec.safetensors")
@json_option
def edit(
    model: str,
    decomposition: str,
    suppress: tuple[tuple[str, float], ...],
    amplify: tuple[tuple[str, float], ...],
    invert: tuple[str, ...],
    layers: tuple[int, ...] | None,
    heads: tuple[int, ...] | None,
    vectors: tuple[int, ...] | None,
    gain: float | None,
    strength: float | None,
    threshold: float | None,
    near: float | None,
    both_poles: bool,
    revision: str | None,
    text_model: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Choose gains for singular vectors of MODEL and save them as an edit spec.

    Concepts of one gain are taken together: with --both-poles, name a whole topic
    (--suppress sea --suppress road --both-poles).
    """
    by_concept = bool(suppress or amplify or invert)
    if by_concept == (gain is not None):
        raise InputError(
            "name what to edit: --suppress, --amplify or --invert, or else --gain with --layers, --heads or --vectors"
        )
    if by_concept and vectors is not None:
        raise InputError("--vectors goes with --gain; concepts choose the vectors by themselves")

    from sith_hf.decomposition import Decomposition
    from sith_hf.editor import SithEditor

    editor = SithEditor.from_pretrained(model, revision, text_model=text_model)
    draft = editor.with_decomposition(Decomposition.from_pretrained(decomposition)).edit()
    together: dict[float, list[str]] = {}
    for concept, amount in (*suppress, *amplify, *((item, -1.0) for item in invert)):
        together.setdefault(amount, []).append(concept)
    for amount, concepts in together.items():
        rule = given(threshold=threshold, near=near, layers=layers, heads=heads)
        draft = draft.set_gain(*concepts, gain=amount, both_poles=both_poles, **rule)
    if gain is not None:
        draft = draft.vectors(gain, layers=layers, heads=heads, vectors=vectors)
    spec = draft.spec if strength is None else draft.spec * strength
    if not spec:
        raise InputError("the edit changes nothing: every gain is 1")
    path = spec.save_pretrained(output)
    if as_json:
        echo_json({"spec": str(path), "vectors": spec.rows()})
    else:
        click.echo(f"{spec}\n{path}")
